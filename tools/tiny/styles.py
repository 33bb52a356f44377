"""The composer's material: instruments, drum and bass patterns, comping, progressions and eight styles."""

from __future__ import annotations

from dataclasses import dataclass

INSTRUMENTS = {  # General MIDI program, and the words for it
    "piano": (0, ["piano"]),
    "epiano": (4, ["electric piano", "rhodes"]),
    "organ": (16, ["organ"]),
    "vibes": (11, ["vibraphone"]),
    "clean": (27, ["electric guitar", "clean guitar"]),
    "overdrive": (29, ["overdriven guitar", "electric guitar"]),
    "upright": (32, ["upright bass", "double bass"]),
    "fbass": (33, ["bass", "bass guitar"]),
    "synbass": (38, ["synth bass", "bass"]),
    "strings": (48, ["strings", "string ensemble"]),
    "sax": (66, ["saxophone", "sax"]),
    "flute": (73, ["flute"]),
    "square": (80, ["square lead", "chiptune lead", "synth lead"]),
    "saw": (81, ["saw lead", "synth lead"]),
    "pad": (89, ["warm pad", "synth pad", "pad"]),
}


# Drum patterns: 16 steps of 4/4 (12 of 3/4), GM keys; X loud, x normal, o soft.
# Kick, snare, rim, closed and open hat, ride, crash, clap, shaker.
K, S, R, CH, OH, RD, CR, CL, SH = 36, 38, 37, 42, 46, 51, 49, 39, 70
DRUMS = {
    "rock": [{K: "X.....x.X.......", S: "....X.......X...", CH: "x.x.x.x.x.x.x.x."},
             {K: "X...x...X.x.....", S: "....X.......X...", CH: "x.x.x.x.x.x.x.x."},
             {K: "X.x.....X.x.....", S: "....X.......X..o", RD: "x.x.x.x.x.x.x.x."}],
    "pop": [{K: "X.......X.x.....", S: "....X.......X...", CH: "x.o.x.o.x.o.x.o."},
            {K: "X..x....X..x....", S: "....X.......X...", CL: "....x.......x...", CH: "xoxoxoxoxoxoxoxo"}],
    "house": [{K: "X...X...X...X...", OH: "..x...x...x...x.", CL: "....X.......X..."},
              {K: "X...X...X...X...", CH: "o.x.o.x.o.x.o.x.", CL: "....X.......X...", SH: "xoxoxoxoxoxoxoxo"}],
    "lofi": [{K: "X......x..x.....", S: "....x.......x...", CH: "x.o.x.o.x.o.x.o."},
             {K: "X..o....x.x.....", R: "....x.......x...", CH: "x.oox.o.x.oox.o."}],
    "funk": [{K: "X..x..X...x..x..", S: "....X..o.o..X..o", CH: "xoxoxoxoxoxoxoxo"},
             {K: "X.x....x..X..x..", S: "....X..o....X.o.", CH: "x.x.x.x.x.x.x.x.", OH: "..............x."}],
    "jazz": [{RD: "x...x..xx...x..x", CH: "....o.......o...", K: "o.......o......."},
             {RD: "x...x..xx...x..x", CH: "....o.......o...", R: ".......o......o."}],
    "soft": [{K: "x.......x.......", R: "....x.......x...", SH: "o.o.o.o.o.o.o.o."}],
    "waltz": [{K: "X...........", R: "....x...x...", CH: "x...x...x..."},
              {K: "x...........", S: "....o...o...", RD: "x...x...x.o."}],
}  # fmt: skip

# Basses: (beat, beats, step of the chord: 0 root, 1 third, 2 fifth, 3 octave, -1 approach to the next root).
BASS = {
    "held": [(0, 4, 0)], "half": [(0, 2, 0), (2, 2, 2)], "eighths": [(i / 2, 0.5, 0) for i in range(8)],
    "walking": [(0, 1, 0), (1, 1, 1), (2, 1, 2), (3, 1, -1)],
    "offbeat": [(i + 0.5, 0.5, 0) for i in range(4)],
    "octaves": [(i / 2, 0.5, 3 * (i % 2)) for i in range(8)],
    "pop": [(0, 1.5, 0), (1.5, 0.5, 0), (2, 1, 2), (3, 1, 0)],
    "funk": [(0, 0.75, 0), (0.75, 0.25, 0), (1.5, 0.5, 3), (2.25, 0.25, 0), (2.5, 0.5, 2), (3.5, 0.5, -1)],
    "waltz": [(0, 1, 0)], "waltz2": [(0, 2, 0), (2, 1, 2)],
}  # fmt: skip

# Chords: (beat, beats) for all voices, or (beat, beats, voice) to break them.
COMP = {
    "whole": [(0, 4)], "halves": [(0, 2), (2, 2)], "quarters": [(i, 0.9) for i in range(4)],
    "eighths": [(i / 2, 0.45) for i in range(8)], "off": [(i + 0.5, 0.3) for i in range(4)],
    "charleston": [(0, 1), (1.5, 0.4)], "charleston2": [(0.5, 0.4), (2, 1), (3.5, 0.4)],
    "strum": [(0, 1), (1, 0.5), (1.5, 0.5), (2.5, 0.5), (3, 0.5), (3.5, 0.5)],
    "up8": [(i / 2, 0.6, i % 4) for i in range(8)], "alberti": [(i / 2, 0.5, (0, 2, 1, 2)[i % 4]) for i in range(8)],
    "arp16": [(i / 4, 0.25, (0, 1, 2, 3, 2, 1)[i % 6]) for i in range(16)],
    "arp8": [(i / 2, 0.9, (0, 1, 2, 3, 2, 1, 2, 1)[i]) for i in range(8)],
    "funk": [(0, 0.2), (0.75, 0.2), (1.5, 0.2), (2.25, 0.2), (2.75, 0.2), (3.5, 0.2)],
    "waltz": [(1, 0.8), (2, 0.8)], "waltz8": [(i / 2, 0.6, (0, 1, 2, 3, 2, 1)[i]) for i in range(6)],
    "waltzhold": [(0, 3)],
}  # fmt: skip

MAJ = ([1, 5, 6, 4], [1, 6, 4, 5], [1, 4, 5, 4], [1, 4, 1, 5], [1, 3, 4, 5], [1, 4, 6, 5], [1, 2, 4, 5])
MIN = ([1, 6, 3, 7], [1, 7, 6, 7], [1, 4, 5, 1], [1, 6, 4, 5], [1, 4, 1, 5], [1, 3, 7, 6], [1, 1, 6, 7])
JMAJ = ([1, 6, 2, 5], [2, 5, 1, 1], [1, 4, 2, 5], [3, 6, 2, 5])
JMIN = ([1, 4, 2, 5], [1, 6, 2, 5], [1, 1, 4, 5])


@dataclass(frozen=True)
class Style:
    """The material of one style; every list is chosen from with equal chances."""

    words: list[str]  # names of the style
    bpm: tuple[int, int]
    drums: str  # key of DRUMS
    kits: list[int]  # programs of bank 128
    bass: list[str]  # keys of BASS
    basses: list[str]  # keys of INSTRUMENTS, as for chords, leads and pads
    comp: list[str]  # keys of COMP
    chords: list[str]
    leads: list[str]
    moods: list[str]
    minor: float = 0.4  # chance of a minor key
    pads: tuple[str, ...] = ()
    swing: float = 0.0  # beats by which an off-beat comes late
    three: float = 0.0  # chance of 3/4
    seventh: float = 0.0  # chance of four-note chords
    progs: tuple[tuple[list[int], ...], tuple[list[int], ...]] = (MAJ, MIN)
    nodrums: float = 0.0  # chance of no drums
    density: float = 0.5  # of the lead


STYLES = {
    "jazz": Style(
        ["jazz", "swing", "jazz trio"],
        (90, 150),
        "jazz",
        [0],
        ["walking", "half"],
        ["upright"],
        ["charleston", "charleston2", "halves"],
        ["piano", "vibes"],
        ["sax", "vibes"],
        ["smoky", "relaxed", "cool", "late night"],
        swing=0.17,
        seventh=1,
        progs=(JMAJ, JMIN),
        density=0.6,
    ),
    "rock": Style(
        ["rock", "indie rock", "hard rock"],
        (100, 150),
        "rock",
        [0],
        ["eighths", "pop"],
        ["fbass"],
        ["eighths", "quarters", "strum"],
        ["overdrive"],
        ["clean", "organ"],
        ["energetic", "driving", "powerful"],
        minor=0.5,
    ),
    "lofi": Style(
        ["lofi", "lofi hip hop", "chillhop"],
        (70, 92),
        "lofi",
        [25],
        ["half", "held"],
        ["fbass", "upright"],
        ["halves", "charleston", "whole"],
        ["epiano", "piano"],
        ["vibes", "flute"],
        ["chill", "mellow", "dreamy", "relaxed"],
        swing=0.09,
        seventh=1,
        progs=(JMAJ, JMIN),
        pads=("pad",),
    ),
    "house": Style(
        ["house", "deep house", "dance"],
        (116, 130),
        "house",
        [25],
        ["offbeat", "octaves"],
        ["synbass"],
        ["off", "charleston"],
        ["piano", "organ"],
        ["saw", "square"],
        ["groovy", "uplifting", "club"],
        pads=("pad", "strings"),
    ),
    "chiptune": Style(
        ["chiptune", "8-bit", "video game"],
        (110, 160),
        "pop",
        [25],
        ["octaves", "eighths"],
        ["synbass"],
        ["arp16", "up8"],
        ["square"],
        ["square", "saw"],
        ["playful", "bright", "cheerful"],
        density=0.8,
    ),
    "funk": Style(
        ["funk", "disco", "soul"],
        (92, 122),
        "funk",
        [0],
        ["funk", "octaves"],
        ["fbass"],
        ["funk", "off"],
        ["clean", "epiano", "organ"],
        ["sax", "flute"],
        ["groovy", "upbeat", "tight"],
        seventh=0.7,
    ),
    "ambient": Style(
        ["ambient", "meditation", "downtempo"],
        (70, 100),
        "soft",
        [0],
        ["held"],
        ["synbass"],
        ["up8", "arp8"],
        ["epiano", "vibes"],
        ["flute", "strings"],
        ["calm", "dreamy", "floating", "peaceful"],
        nodrums=0.85,
        pads=("strings", "pad"),
        density=0.2,
    ),
    "classical": Style(
        ["classical", "baroque", "chamber music"],
        (80, 140),
        "soft",
        [0],
        ["half"],
        ["upright"],
        ["alberti", "arp8", "up8"],
        ["piano"],
        ["flute", "strings"],
        ["elegant", "delicate", "romantic"],
        nodrums=1.0,
        three=0.4,
        density=0.6,
    ),
}
