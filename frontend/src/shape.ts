// The arithmetic of a drawn curve; the server's is in engine_runtime/controls/points.py.

export type Point = [x: number, y: number];

export const INTERPOLATIONS = ["monotone_cubic", "linear"] as const;

/** The value of a curve widget, as the editor keeps it. */
export interface Drawn {
  points: Point[];
  interpolation: string;
}

const clamp = (x: number) => Math.min(1, Math.max(0, x));

/** Reads a widget's value; a straight line where it is none. */
export function readDrawn(value: unknown): Drawn {
  const { points, interpolation } = (value ?? {}) as Partial<Drawn>;
  const fine =
    Array.isArray(points) && points.length > 0 && points.every((p) => p.length === 2 && p.every(Number.isFinite));
  if (!fine)
    return {
      points: [
        [0, 0],
        [1, 1],
      ],
      interpolation: INTERPOLATIONS[0],
    };
  return { points: points.map(([x, y]) => [x, y]), interpolation: interpolation ?? INTERPOLATIONS[0] };
}

/** Moves a point; one between two others stays between them. */
export function moved({ points, interpolation }: Drawn, index: number, [x, y]: Point): Drawn {
  const low = points[index - 1]?.[0] ?? 0;
  const high = points[index + 1]?.[0] ?? 1;
  const next = points.map(
    (point, i): Point => (i === index ? [Math.min(high, Math.max(low, clamp(x))), clamp(y)] : point),
  );
  return { points: next, interpolation };
}

/** Adds a point, and returns its index too. */
export function added({ points, interpolation }: Drawn, [x, y]: Point): [Drawn, number] {
  const index = points.findIndex((point) => point[0] > x);
  const at = index < 0 ? points.length : index;
  const point: Point = [clamp(x), clamp(y)];
  return [{ points: [...points.slice(0, at), point, ...points.slice(at)], interpolation }, at];
}

/** Takes a point away; two stay. */
export function removed({ points, interpolation }: Drawn, index: number): Drawn {
  return { points: points.length > 2 ? points.filter((_, i) => i !== index) : points, interpolation };
}

/** The curve's value at x: Fritsch and Carlson's monotone cubic, or straight lines; held before and after. */
export function evaluator({ points, interpolation }: Drawn): (x: number) => number {
  const sorted = [...points].sort((a, b) => a[0] - b[0]);
  const slopes = sorted
    .slice(1)
    .map(([x, y], i) => (x > sorted[i]![0] ? (y - sorted[i]![1]) / (x - sorted[i]![0]) : 0));
  const tangents = interpolation === "linear" ? null : tangentsOf(slopes);
  return (x) => {
    const after = sorted.findIndex((point) => point[0] >= x);
    if (after < 0) return sorted.at(-1)![1];
    if (after === 0) return sorted[0]![1];
    const [[left, from], [right, to]] = [sorted[after - 1]!, sorted[after]!];
    const wide = right - left;
    const t = wide ? (x - left) / wide : 1;
    if (!tangents) return from + t * (to - from);
    const [a, b] = [tangents[after - 1]! * wide, tangents[after]! * wide];
    return from * (1 + 2 * t) * (1 - t) ** 2 + to * t * t * (3 - 2 * t) + a * t * (1 - t) ** 2 - b * t * t * (1 - t);
  };
}

function tangentsOf(slopes: number[]): number[] {
  const found = Array.from({ length: slopes.length + 1 }, (_, i) => {
    const [before, after] = [slopes[i - 1] ?? slopes[i] ?? 0, slopes[i] ?? slopes[i - 1] ?? 0];
    return before * after > 0 ? (before + after) / 2 : 0;
  });
  for (const [i, slope] of slopes.entries()) {
    const limit = 3 * Math.abs(slope);
    const length = Math.hypot(found[i]!, found[i + 1]!);
    if (length <= limit) continue;
    found[i]! *= limit / length;
    found[i + 1]! *= limit / length;
  }
  return found;
}
