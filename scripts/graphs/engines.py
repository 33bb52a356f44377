"""Graphs of engines that are built and measured, and the live one."""

from .parts import BUILT, END, ENGINE, model, prompt, stream

GRAPHS = {
    "build_engine": (
        "## Build a TensorRT engine while the music plays\n**Build Engine** starts the build and returns: the first "
        "run plays on PyTorch, and once the text under the node says that the engine is built, the next plays on it. "
        "What is missing for it, such as a package, is said there too. **action** cancel ends a build.",
        [
            model(),
            {
                "engine": (
                    "OstinatoBuildEngine",
                    {"model": ("model", 0), "name": BUILT, "batch": "1:4:8", "seconds": "2:10:20"},
                ),
                "prompt": prompt(),
            },
            stream(seed=17),
            *END,
        ],
    ),
    "load_engine": (
        f"## Play on an engine that was built before\n**Load Engine** looks for `{BUILT}`, which the workflow "
        "*build_engine* builds, and says of every engine whether it is ready, and why not. Where it cannot play, the "
        "engine that is connected as fallback does.",
        [
            model(),
            {"torch": ENGINE["engine"], "prompt": prompt()},
            {
                "engine": (
                    "OstinatoLoadEngine",
                    {"engine": BUILT, "model": ("model", 0), "fallback": ("torch", 0)},
                )
            },
            stream(seed=17),
            *END,
        ],
    ),
    "layer_profile": (
        "## Where a tick's time goes\nThe first **Layer Profile** times the layers at depth 4, the second at depth 8 "
        "and says what changed. `ostinato profile` does the same on the command line.",
        [
            model(),
            {**ENGINE, "prompt": prompt()},
            {
                **stream(seed=19),
                "four": ("OstinatoLayerProfile", {"engine": ("engine", 0), "seconds": 10.0, "ticks": 5}),
            },
            {
                **END[0],
                "eight": (
                    "OstinatoLayerProfile",
                    {"engine": ("engine", 0), "depth": 8, "seconds": 10.0, "ticks": 5, "before": ("four", 2)},
                ),
            },
            END[1],
        ],
    ),
    "live": (
        "## Play the graph\nPress **Play** in *Live Session*: the graph runs once, then it plays on beside the queue. "
        "Move any widget, type another prompt or draw the curve while it plays; the line under a node says when it "
        "was heard.",
        [
            {
                **model(),
                "curve": (
                    "OstinatoCurvePoints",
                    {
                        "points": {"points": [[0, 1], [0.6, 1], [0.8, 0.5], [1, 1]], "interpolation": "linear"},
                        "low": 0.8,
                        "high": 1.0,
                    },
                ),
            },
            {
                **ENGINE,
                "prompt": (
                    "OstinatoEncodePrompt",
                    {"model": ("model", 0), "tags": "funk, drums, bass, electric piano", "seconds": 10.0, "bpm": 96},
                ),
            },
            {"knobs": ("OstinatoKnobs", {"velocity_scale": ("curve", 0)})},
            {
                "live": (
                    "OstinatoLiveSession",
                    {
                        "engine": ("engine", 0),
                        "condition": ("prompt", 0),
                        "model": ("model", 0),
                        "knobs": ("knobs", 0),
                        "depth": 2,
                        "seed": 7,
                    },
                )
            },
        ],
    ),
}
