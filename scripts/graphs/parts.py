"""Nodes and columns that several graphs have."""

CLIP = "ostinato_source.flac"
END = [
    {
        "decode": ("OstinatoStreamDecode", {"model": ("model", 0), "latents": ("stream", 0)}),
        "save": ("SaveAudio", {"audio": ("decode", 0), "filename_prefix": "audio/ostinato"}),
    },
    {"stats": ("OstinatoStreamStats", {"stats": ("stream", 1)})},
]
ENGINE = {"engine": ("OstinatoEngine", {"model": ("model", 0)})}
SOURCE = {"source": ("OstinatoSourceAudio", {"model": ("model", 0), "audio": ("clip", 0)})}
BUILT = "tiny"  # name of the engine that one workflow builds and another loads


def prompt(**given: object) -> tuple:
    return ("OstinatoEncodePrompt", {"model": ("model", 0), **given})


def stream(**given: object) -> dict:
    return {
        "stream": (
            "OstinatoStreamDenoise",
            {"engine": ("engine", 0), "condition": ("prompt", 0), "count": 4, "depth": 4, **given},
        )
    }


def model(name: str = "tiny", clip: bool = False) -> dict:
    return {
        "model": ("OstinatoLoadModel", {"model": name}),
        **({"clip": ("LoadAudio", {"audio": CLIP})} if clip else {}),
    }
