// A line of numbers over time.

import { svg } from './dom.js';

const WIDTH = 160;
const HEIGHT = 32;

/** Draws lines `{ kind, values }` of equal length over the same scale; what was not measured is a gap. */
export function sparkline(label, lines, slots) {
  const top = Math.max(1e-9, ...lines.flatMap((line) => line.values.filter((value) => value !== null)));
  const drawn = lines.map(({ kind, values }) => {
    const from = slots - values.length;
    let [path, pen] = ['', 'M'];
    values.forEach((value, at) => {
      if (value === null) {
        pen = 'M';
        return;
      }
      const x = ((from + at) / Math.max(1, slots - 1)) * WIDTH;
      const y = HEIGHT - 1 - (value / top) * (HEIGHT - 2);
      path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = 'L';
    });
    return svg('path', { d: path || 'M0 0', class: `line ${kind}` });
  });
  return svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label, class: 'spark' },
    svg('path', { d: `M0 ${HEIGHT - 0.5}H${WIDTH}`, class: 'base' }), drawn);
}

/** Returns the value below which a part of the values of a histogram are; `null` without values. */
export function quantile(buckets, part) {
  const all = buckets.length === 0 ? 0 : buckets[buckets.length - 1][1];
  if (all <= 0) return null;
  const wanted = part * all;
  let [low, below] = [0, 0];
  for (const [bound, upTo] of buckets) {
    if (upTo >= wanted) {
      // Beyond the last bound nothing more is known than that.
      if (bound > 1e300) return low;
      const within = upTo - below;
      return within <= 0 ? bound : low + (bound - low) * ((wanted - below) / within);
    }
    [low, below] = [bound, upTo];
  }
  return low;
}

/** Returns what a histogram has got since an earlier look. */
export function since(buckets, before) {
  const known = new Map(before);
  return buckets.map(([bound, upTo]) => [bound, Math.max(0, upTo - (known.get(bound) ?? 0))]);
}
