// Events on the time axis of charts, each a link, and the choice of which ones are displayed; bars; and
// the rows of cells of a heat map. `charts.js` uses them.
const almenaraMarks = (() => {
  "use strict";

  const times = almenaraTimes;
  const STORED = "almenara.marks";
  const NEAR = 9;
  const LISTED = 100;
  const create = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // ---- which marks are displayed

  const offered = new Map();
  const read = () => {
    try {
      const choices = JSON.parse(times.stored(STORED) ?? "{}");
      return typeof choices === "object" && choices !== null ? choices : {};
    } catch {
      return {};
    }
  };
  const isChosen = (title) => read()[title] ?? offered.get(title) ?? false;
  const chosen = () => [...offered.keys()].filter(isChosen);

  // The boxes that choose, for all charts of a page.
  const buildChoice = (sections, onChange) => {
    for (const section of sections) {
      for (const [title, isDefault] of Object.entries(JSON.parse(section.dataset.marks ?? "{}"))) {
        if (!offered.has(title)) offered.set(title, isDefault);
      }
    }
    const choice = create("fieldset", "marks-choice");
    choice.append(create("legend", "", "Mark on charts"));
    for (const title of offered.keys()) {
      const label = create("label", "check");
      const box = create("input");
      box.type = "checkbox";
      box.checked = isChosen(title);
      box.addEventListener("change", () => {
        times.store(STORED, JSON.stringify({ ...read(), [title]: box.checked }));
        onChange();
      });
      label.append(box, " " + title);
      choice.append(label);
    }
    return choice;
  };

  // ---- marks of one chart

  // Marks that would lie upon one another are one link, to all of them.
  const group = (plot, marks) => {
    const groups = [];
    for (const mark of marks) {
      const left = plot.valToPos(mark.time, "x");
      if (left < 0 || left > plot.over.clientWidth) continue;
      const last = groups[groups.length - 1];
      if (last && left - last.left < NEAR) last.marks.push(mark);
      else groups.push({ left, marks: [mark] });
    }
    return groups;
  };

  const RANKS = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
  const worst = (marks) => marks.reduce((severity, mark) => (RANKS.indexOf(mark.severity) > RANKS.indexOf(severity) ? mark.severity : severity), "DEBUG");
  const linkTo = (marks) => {
    if (marks.length === 1) return marks[0].link;
    const range = new URLSearchParams({
      since: new Date(marks[0].time).toISOString(),
      until: new Date(marks[marks.length - 1].time + 1000).toISOString(),
    });
    return "/events?" + range;
  };

  // Places the links into the plot. A press on one follows it, and does not start to zoom.
  const place = (plot, marks) => {
    plot.over.querySelectorAll(".chart-mark").forEach((mark) => mark.remove());
    for (const { left, marks: near } of group(plot, marks)) {
      const link = create("a", "chart-mark");
      link.href = linkTo(near);
      link.dataset.severity = worst(near);
      link.style.left = left + "px";
      // The list below the chart has the same links for the keyboard.
      link.tabIndex = -1;
      link.setAttribute("aria-hidden", "true");
      const first = near[0];
      link.title = near.length === 1 ? first.group + ", " + times.formatFull(first.time) + "\n" + first.text : near.length + " events, " + times.formatRange(first.time, near[near.length - 1].time);
      link.addEventListener("mousedown", (event) => event.stopPropagation());
      plot.over.append(link);
    }
  };

  const list = (marks) => {
    if (!marks.length) return create("p", "quiet", "No marked events in this range.");
    const rows = create("ul", "mark-list");
    for (const mark of marks.slice(-LISTED).reverse()) {
      const row = create("li");
      const link = create("a", "", mark.text);
      link.href = mark.link;
      row.append(create("span", "figure quiet", times.formatFull(mark.time).replace(/\.\d{3}/, "")), " ", link);
      rows.append(row);
    }
    return rows;
  };

  // ---- bars

  const BAR_SHARE = 0.8;
  const WIDEST_BAR = 48;
  const COLOR_OF = { WARN: "warn", ERROR: "error", FATAL: "error" };

  // The colour that levels give a bar; null where none colours bars.
  const barColor = (value, levels, token) => {
    const coloring = levels.filter((level) => level.colors);
    if (!coloring.length) return null;
    const passed = coloring.filter((level) => (level.colors === "below" ? value < level.value : value > level.value));
    if (!passed.length) return token("ok");
    const severity = worst(passed);
    return token(COLOR_OF[severity] ?? "quiet");
  };

  // Draws a bar for each step of each line, from the start of the step: in a row for each line where
  // there are several. Every bar is visible, so that a zero differs from a gap.
  const drawBars = (plot, lines, data, colorOf, token) => {
    const { ctx, bbox } = plot;
    const isRows = lines.length > 1;
    const highest = Math.max(...lines.flatMap((line) => line.values.filter((value) => value !== null)), 0);
    const most = data.format === "percent" && highest <= 1 ? 1 : highest || 1;
    const least = 2 * devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    lines.forEach((line, row) => {
      const step = Math.max(data.step, 1);
      line.times.forEach((moment, index) => {
        const value = line.values[index];
        if (value === null || value === undefined) return;
        const left = plot.valToPos(moment, "x", true);
        const width = Math.min((plot.valToPos(moment + step, "x", true) - left) * BAR_SHARE, WIDEST_BAR * devicePixelRatio);
        const base = isRows ? row + 0.08 : 0;
        const from = plot.valToPos(base, "y", true);
        const to = plot.valToPos(isRows ? base + (0.84 * value) / most : value, "y", true);
        const color = barColor(value, data.levels, token);
        ctx.fillStyle = color ?? colorOf(line);
        ctx.globalAlpha = 0.85;
        ctx.fillRect(left, Math.min(to, from - least), Math.max(width, 1), Math.max(from - to, least));
      });
    });
    ctx.restore();
  };

  // ---- heat maps

  // The colour of a cell: of the first level above its value or, without levels, a shade.
  const cellColor = (value, most, levels, token) => {
    if (levels.length === 0) return [token("hue-0"), most > 0 ? 0.08 + 0.92 * Math.sqrt(Math.max(value, 0) / most) : 0.08];
    const level = levels.find((each) => value < each.value);
    if (level === undefined) return [token("ok"), 0.85];
    return [token(COLOR_OF[level.severity] ?? "quiet"), 0.9];
  };

  // Draws a row of cells for each line, from the bottom up, each as wide as a step.
  const drawCells = (plot, lines, data, token) => {
    const { ctx, bbox } = plot;
    const levels = [...data.levels].sort((one, other) => one.value - other.value);
    const most = Math.max(...lines.flatMap((line) => line.values.filter((value) => value !== null)), 0);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    lines.forEach((line, row) => {
      // A cell reaches to the next one, unless there is a gap between them.
      const step = Math.max(data.step, line.step, 1);
      const top = plot.valToPos(row + 0.94, "y", true);
      const height = plot.valToPos(row + 0.06, "y", true) - top;
      line.times.forEach((moment, index) => {
        const value = line.values[index];
        if (value === null) return;
        const left = plot.valToPos(moment, "x", true);
        const next = line.times[index + 1] ?? Infinity;
        const width = plot.valToPos(next - moment <= 3 * step ? next : moment + step, "x", true) - left;
        const [color, alpha] = cellColor(value, most, levels, token);
        ctx.fillStyle = color;
        ctx.globalAlpha = alpha;
        const gap = width > 10 * devicePixelRatio ? 1 : 0;
        ctx.fillRect(left + gap, top, Math.max(width - 2 * gap, 1), height);
      });
    });
    ctx.restore();
  };

  return { buildChoice, chosen, place, list, drawBars, drawCells };
})();
