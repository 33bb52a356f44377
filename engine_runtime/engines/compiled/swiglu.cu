// out = silu(x @ gate.T) * (x @ up.T) for Hopper: M rows, I inner width, K width in; weight is gate, then up. In bfloat16
// or float16; or in float8, where every row of x and of the weight has a step, and so has a row of the result, which the
// caller knows before: it can be rounded before its row is complete.
//
// A cluster of two blocks takes 256 rows of 128 columns. Each block loads its own 128 rows of x and one half of the
// weight's tile, which it sends to both, so that the second level cache is read a third less than by blocks alone. In a
// block one thread loads, STAGES tiles of K ahead, also over the end of an output tile; two warpgroups multiply, 64 rows
// each, with gate and up in one instruction, so that both values of an output lie in one thread. To keep one warpgroup
// behind the other, so that one multiplies while the other writes, was 5 to 50 % slower: too few tiles are loaded ahead.
// PTX ISA 8.0: wgmma, cp.async.bulk.tensor, mbarrier, setmaxnreg.

typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(64) Map { u64 words[16]; };  // a CUtensorMap

constexpr int BM = 128, BN = 128, BK = 128 / WIDTH;  // a tile's rows of K are 128 bytes; WIDTH is a number's bytes
constexpr int STAGES = 4, AHEAD = WIDTH == 1;  // in float8 a warpgroup begins the next tile of K before the last is done
constexpr u32 X = BM * 128, HALF = BN * 128, STAGE = X + 2 * HALF, PART = 64 * 128;
constexpr u32 PARTS = WIDTH;  // of a warpgroup's 64 rows of output, 128 bytes wide
constexpr u32 OUT = STAGES * STAGE, BARS = OUT + 2 * PARTS * PART;  // offsets in shared memory

__device__ __forceinline__ void barrier_init(u32 bar, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

__device__ __forceinline__ void expect(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ __forceinline__ void wait(u32 bar, u32 parity) {
  u32 over;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(over)
        : "r"(bar), "r"(parity)
        : "memory");
  } while (!over);
}

// Tell block `block` of the cluster that a stage is read.
__device__ __forceinline__ void arrive(u32 bar, u32 block) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(bar), "r"(block)
      : "memory");
}

__device__ __forceinline__ void load(const Map& map, u32 to, u32 bar, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(&map), "r"(bar), "r"(column), "r"(row)
      : "memory");
}

// The same place in both blocks, and the same barrier.
__device__ __forceinline__ void load_both(const Map& map, u32 to, u32 bar, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(&map), "r"(bar), "r"(column), "r"(row), "h"((unsigned short)3)
      : "memory");
}

__device__ __forceinline__ void store(const Map& map, u32 from, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(from),
               "r"(column), "r"(row)
               : "memory");
}

__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" ::: "memory");
}

// Of a tile of rows of 128 bytes, swizzled by 128, K along the rows.
__device__ __forceinline__ u64 descriptor(u32 at) {
  return (u64)((at & 0x3FFFF) >> 4) | (1ull << 16) | ((u64)(1024 >> 4) << 32) | (1ull << 62);
}

#if WIDTH == 1
#define STEP "32"
#define MAJOR ""
#else
#define STEP "16"
#define MAJOR ", 0, 0"
#endif

// d[64, 256] (+)= a[64, 32 bytes] @ b[256, 32 bytes].T
__device__ __forceinline__ void multiply(float (&d)[128], u64 a, u64 b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k" STEP ".f32." TYPE "." TYPE " {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, p, 1, 1" MAJOR ";\n}\n"
        :
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
          "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
          "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
          "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "l"(a), "l"(b), "r"(add));
}

#if WIDTH == 1
__device__ __forceinline__ unsigned short pair(float low, float high) {
  unsigned short both;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(high), "f"(low));
  return both;
}
#else
__device__ __forceinline__ u32 pair(float low, float high) {
  u32 both;
  asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
#endif

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float one_over(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// silu(gate) * up of four in one row, with one reciprocal: an output tile waits for the unit that computes it and the
// powers. 1 + exp(-gate) is held below 2^30 so that the product of four is finite; there silu is 0 to nine digits.
__device__ __forceinline__ void swiglu_of(const float (&gate)[4], const float (&up)[4], float (&y)[4]) {
  float a[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = 1.0f + exp2_of(fminf(gate[i] * -1.44269504f, 30.0f));
  float low = a[0] * a[1], high = a[2] * a[3], over = one_over(low * high);
  float over_low = over * high, over_high = over * low;
  y[0] = gate[0] * up[0] * (over_low * a[1]), y[1] = gate[1] * up[1] * (over_low * a[0]);
  y[2] = gate[2] * up[2] * (over_high * a[3]), y[3] = gate[3] * up[3] * (over_high * a[2]);
}

// The steps, in float8; null otherwise.
struct Steps {
  const float* row;     // [M], of x
  const float* column;  // [2 * I], of the weight
  const float* limit;   // [M], of the result
};

// Where a thread's numbers lie: d[4 * j + 2 * h + (0, 1)] is row `row + 8 * h` of its warpgroup, columns 8 * j + `column`;
// the second 64 of d are up's.
struct Own {
  u32 place;  // the warpgroup's parts in shared memory
  int row, column;
};

#if WIDTH == 2

__device__ __forceinline__ void finish(const float (&d)[128], const Own& own, const Steps&, int, int, int, int) {
  int lane = threadIdx.x % 32, row = own.row - lane / 4 + lane % 16, chunk = lane / 16;  // for stmatrix
#pragma unroll
  for (int j = 0; j < 16; j += 2) {
    u32 y[4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {  // two rows, 8 apart: no row may change with another
      int e = 4 * j + 2 * h;
      float gate[4] = {d[e], d[e + 1], d[e + 4], d[e + 5]}, up[4] = {d[e + 64], d[e + 65], d[e + 68], d[e + 69]};
      float z[4];
      swiglu_of(gate, up, z);
      y[h] = pair(z[0], z[1]), y[2 + h] = pair(z[2], z[3]);
    }
    u32 to = own.place + (j / 8) * PART + row * 128 + (((j % 8 + chunk) ^ (row & 7)) << 4);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(y[0]), "r"(y[1]),
                 "r"(y[2]), "r"(y[3])
                 : "memory");
  }
}

#else

__device__ __forceinline__ void finish(const float (&d)[128], const Own& own, const Steps& s, int first, int column, int m,
                                       int inner) {
  float step[2], over[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    int row = min(first + own.row + 8 * h, m - 1);
    step[h] = __ldg(s.row + row), over[h] = step[h] * one_over(__ldg(s.limit + row));
  }
  const float* of = s.column + column + own.column;
#pragma unroll
  for (int j = 0; j < 16; j += 2) {
    float2 g0 = __ldg((const float2*)(of + 8 * j)), g1 = __ldg((const float2*)(of + 8 * j + 8));
    float2 u0 = __ldg((const float2*)(of + inner + 8 * j)), u1 = __ldg((const float2*)(of + inner + 8 * j + 8));
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      int e = 4 * j + 2 * h, row = own.row + 8 * h;
      float t = step[h], r = over[h], z[4];
      float gate[4] = {d[e] * t * g0.x, d[e + 1] * t * g0.y, d[e + 4] * t * g1.x, d[e + 5] * t * g1.y};
      float up[4] = {d[e + 64] * r * u0.x, d[e + 65] * r * u0.y, d[e + 68] * r * u1.x, d[e + 69] * r * u1.y};
      swiglu_of(gate, up, z);
      u32 to = own.place + row * 128 + (((j / 2) ^ (row & 7)) << 4) + own.column;
      asm volatile("st.shared.b16 [%0], %1;" ::"r"(to), "h"(pair(z[0], z[1])) : "memory");
      asm volatile("st.shared.b16 [%0], %1;" ::"r"(to + 8), "h"(pair(z[2], z[3])) : "memory");
    }
  }
}

#endif

// Tiles go down `group` pairs of row tiles, then to the next column.
struct Place {
  int row, column;
};

__device__ __forceinline__ Place place(int tile, int pairs, int columns, int group, u32 rank) {
  int first = tile / (group * columns) * group, within = tile % (group * columns);
  int size = min(pairs - first, group);
  return {(2 * (first + within % size) + (int)rank) * BM, within / size * BN};
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
    swiglu(const __grid_constant__ Map x, const __grid_constant__ Map weight, const __grid_constant__ Map out,
           const float* row_step, const float* column_step, const float* limit, int m, int inner, int k, int group) {
  extern __shared__ unsigned char raw[];
  u32 base = ((u32)__cvta_generic_to_shared(raw) + 1023) & ~1023u;
  u32 full = base + BARS, empty = full + 8 * STAGES;
  u32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
  int pairs = (m + 2 * BM - 1) / (2 * BM), columns = inner / BN, tiles = pairs * columns;
  int begin = blockIdx.x / 2, clusters = gridDim.x / 2;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4);  // two warpgroups of two blocks
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_sync();
  u32 stage = 0, phase = 0, last = 0;
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread == 0) {
      for (int tile = begin; tile < tiles; tile += clusters) {
        Place at = place(tile, pairs, columns, group, rank);
        for (int i = 0; i < k; i += BK) {
          u32 to = base + stage * STAGE, bar = full + 8 * stage;
          wait(empty + 8 * stage, phase ^ 1);
          expect(bar, STAGE);
          load(x, to, bar, i, at.row);
          load_both(weight, to + X + rank * HALF, bar, i, rank * inner + at.column);
          if (++stage == STAGES) stage = 0, phase ^= 1;
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int part = warpgroup - 1, warp = thread / 32, lane = thread % 32;
    Own own = {base + OUT + part * PARTS * PART, 16 * warp + lane / 4, 2 * (lane % 4)};
    Steps steps = {row_step, column_step, limit};
    bool teller = lane == 0 && warp < 2;  // tells a block that a stage is read
    float d[128];
    for (int tile = begin; tile < tiles; tile += clusters) {
      Place at = place(tile, pairs, columns, group, rank);
      int first = at.row + 64 * part;
      bool live = first < m;
      for (int i = 0; i < k; i += BK) {
        u32 from = base + stage * STAGE;
        wait(full + 8 * stage, phase);
        if (live) {
          u64 a = descriptor(from + part * 64 * 128), b = descriptor(from + X);
          asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
          for (int j = 0; j < 4; ++j) multiply(d, a + 2 * j, b + 2 * j, i + j);
          asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
          asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(AHEAD) : "memory");  // the other multiplies meanwhile
        } else {
          asm volatile("bar.sync %0, 128;" ::"r"(warpgroup) : "memory");  // no warp may fall two rounds behind
        }
        if (!AHEAD) last = stage;
        if (teller && (!AHEAD || i)) arrive(empty + 8 * last, warp);
        last = stage;
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
      if (AHEAD) {
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (teller) arrive(empty + 8 * last, warp);
      }
      if (!live) continue;
      if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
      asm volatile("bar.sync %0, 128;" ::"r"(warpgroup) : "memory");
      finish(d, own, steps, first, at.column, m, inner);
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      asm volatile("bar.sync %0, 128;" ::"r"(warpgroup) : "memory");
      if (thread == 0) {
        for (int n = 0; n < PARTS; ++n) store(out, own.place + n * PART, at.column + 64 * n, first);
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      }
    }
    if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
  __syncwarp();
  cluster_sync();  // until the other block has read and heard all
}
