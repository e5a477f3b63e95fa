// Numbers as the server writes them, and the data of charts as uPlot takes it. `charts.js` uses it.
const almenaraLines = (() => {
  "use strict";

  const GAP_STEPS = 6;
  const DASH = "\u2013";
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  const formatNumber = (value) => {
    if (value && Math.abs(value) < 10 && !Number.isInteger(value)) {
      return Math.abs(value) < 0.1 ? Number(value.toPrecision(2)).toString() : value.toFixed(Math.abs(value) < 1 ? 2 : 1);
    }
    return value.toLocaleString("en", { maximumFractionDigits: 0 });
  };
  const formatBytes = (value) => {
    for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
      if (Math.abs(value) < 1024 || unit === "TiB") return (unit === "B" ? value.toFixed(0) : value.toFixed(1)) + " " + unit;
      value /= 1024;
    }
  };
  const formatDuration = (value) => {
    if (value < 0) return "\u2212" + formatDuration(-value);
    if (value > 0 && value < 0.0001) return value >= 1e-6 ? (value * 1e6).toFixed(0) + " \u00b5s" : "< 1 \u00b5s";
    if (value < 0.0095) return value ? (value * 1000).toFixed(1) + " ms" : "0 s";
    if (value < 1) return (value * 1000).toFixed(0) + " ms";
    if (value < 60) return value.toFixed(1) + " s";
    const minutes = Math.floor(value / 60);
    if (minutes < 60) return minutes + " min " + Math.floor(value % 60) + " s";
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? hours + " h " + (minutes % 60) + " min" : Math.floor(hours / 24) + " d " + (hours % 24) + " h";
  };
  // What is nearly all is never rounded up to all.
  const formatPercent = (value) => (value >= 0.99 && value < 1 ? String(Math.floor(value * 10_000 + 1e-6) / 100) : (value * 100).toFixed(Math.abs(value) < 0.1 && value ? 1 : 0)) + " %";
  const FORMATS = { bytes: formatBytes, seconds: formatDuration, percent: formatPercent };
  const format = (value, form) => (isNumber(value) ? (FORMATS[form] ?? formatNumber)(value) : DASH);

  // Steps of an axis that are round in the unit of its values: powers of two for bytes, fractions of
  // minutes and hours for seconds.
  const POWERS = Array.from({ length: 60 }, (_, exponent) => 2 ** exponent);
  const BELOW_A_MINUTE = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10].flatMap((power) => [power, 2 * power, 5 * power]).filter((step) => step <= 20);
  const SECONDS = [...BELOW_A_MINUTE, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800, 432_000, 864_000, 2_592_000, 8_640_000, 31_536_000];
  const increments = (form) => ({ bytes: POWERS, seconds: SECONDS })[form];
  // Marks of an axis: values of seconds are round, so that "5 min 0 s" is "5 min".
  const formatMark = (value, form) => format(value, form).replace(/ 0 (s|min|h)$/, "").replace(/\.0(?= |$)/, "");

  // The lines of a chart on common times: undefined where a line has no point of its own, null
  // where it has a gap.
  const align = (lines) => (lines.length ? uPlot.join(lines.map((line) => [line.times, line.values])) : [[]]);

  // Each line on top of those before it. A line keeps its value until its next point, for as many
  // milliseconds as `holds` has for it; without one it adds nothing. Where no line has a value, all
  // have a gap.
  const stack = (columns, holds) => {
    const [times, ...values] = columns;
    const known = times.map(() => false);
    const shares = values.map((column, line) => {
      let last = null;
      let until = -Infinity;
      return column.map((value, place) => {
        if (value !== undefined) {
          last = value;
          until = times[place] + holds[line];
        }
        const share = times[place] <= until ? last : null;
        if (share !== null) known[place] = true;
        return share ?? 0;
      });
    });
    const sums = times.map(() => 0);
    return [times, ...shares.map((column) => column.map((share, place) => (known[place] ? (sums[place] += share) : null)))];
  };

  const usualStep = (moments) => {
    const steps = moments.slice(1).map((moment, place) => moment - moments[place]).sort((one, other) => one - other);
    return steps.length ? steps[Math.floor(steps.length / 2)] : 0;
  };

  const lastValue = (values) => {
    for (let place = values.length - 1; place >= 0; place--) if (values[place] !== null) return values[place];
    return null;
  };

  // Adds the samples that are newer than the last step of a line, in steps of the same length.
  const append = (line, points, step) => {
    const width = Math.max(step, 1);
    const last = line.times.length ? line.times[line.times.length - 1] : -Infinity;
    const read = line.tail ? line.tail.moment : last + width - 1;
    let changed = false;
    for (const [moment, value] of points) {
      if (moment <= read || typeof value !== "number") continue;
      const start = Math.floor(moment / width) * width;
      const tail = line.tail;
      if (tail && tail.start === start) {
        tail.total += value;
        tail.count += 1;
        tail.moment = moment;
        line.values[line.values.length - 1] = tail.total / tail.count;
      } else {
        const before = line.times[line.times.length - 1];
        if (line.step && before !== undefined && start - before > line.step * GAP_STEPS) {
          line.times.push(before + line.step);
          line.values.push(null);
        }
        line.times.push(start);
        line.values.push(value);
        line.tail = { start, total: value, count: 1, moment };
      }
      changed = true;
    }
    return changed;
  };

  // Removes what a live chart has moved past, but for the point from which its line comes in.
  const drop = (line, since) => {
    let first = 0;
    while (first + 1 < line.times.length && line.times[first + 1] < since) first++;
    if (first) {
      line.times.splice(0, first);
      line.values.splice(0, first);
    }
  };

  return { GAP_STEPS, format, formatMark, increments, align, stack, usualStep, lastValue, append, drop };
})();
