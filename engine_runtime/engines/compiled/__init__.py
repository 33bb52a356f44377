"""The reference decoder restructured for a GPU: fused products, few kernels, condition keys and values kept."""
