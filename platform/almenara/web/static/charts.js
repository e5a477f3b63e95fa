// Charts of stored samples that live frames continue. Each panel that is a chart has a picture from
// the server, which stays where this does not run; the drawing stands beside it, out of reach of the
// frames that replace the picture.
(() => {
  "use strict";

  const times = almenaraTimes;
  const { GAP_STEPS, format, formatMark, increments, align, stack, usualStep, lastValue, append, drop } = almenaraLines;
  const marks = almenaraMarks;
  const range = almenaraRange;
  const SVG_HUES = 8;
  const DASHES = [[], [6, 3], [2, 2.5], [9, 3, 2, 3]];
  const REFETCH_SHARE = 0.1;
  const SHORTEST_REFETCH = 60_000;
  // Frames add nothing to a step that has started: a chart of days is read again for that of today.
  const LONG_STEP = 600_000;
  const LONG_STEP_REFETCH = 300_000;
  const ROW_HEIGHT = 28;
  const RETRY_AFTER = 10_000;
  const TABLE_ROWS = 400;
  const SYNC = "page";

  const charts = [];
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const create = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // ---- one chart

  class Chart {
    constructor(section) {
      this.section = section;
      this.panel = section.querySelector(".panel");
      this.title = section.getAttribute("aria-label");
      this.plot = null;
      this.data = null;
      this.lines = [];
      this.only = null;
      this.isLog = null;
      this.request = 0;
      this.cursor = null;
      this.selection = null;
      this.build();
      new MutationObserver(() => this.acceptFrame()).observe(this.panel, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-live"] });
      new ResizeObserver(() => this.resize()).observe(this.canvas);
      const seen = new IntersectionObserver((entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        seen.disconnect();
        this.load();
      }, { rootMargin: "400px" });
      seen.observe(section);
    }

    build() {
      this.root = create("div", "chart");
      this.root.hidden = true;
      this.canvas = create("div", "chart-plot");
      this.canvas.tabIndex = 0;
      this.canvas.setAttribute("role", "application");
      this.canvas.setAttribute("aria-label", this.title + ": chart. Left and right read the values, Shift with them selects a range, Enter zooms in.");
      this.legend = create("ul", "legend chart-legend");
      this.note = create("p", "more");
      this.note.hidden = true;
      this.spoken = create("p", "hidden");
      this.spoken.setAttribute("aria-live", "polite");
      this.foot = create("div", "chart-foot");
      this.clock = create("span", "figure chart-time");
      this.scale = create("button", "plain", "Log scale");
      this.scale.type = "button";
      this.scale.setAttribute("aria-pressed", "false");
      this.scale.addEventListener("click", () => {
        this.isLog = !this.isLog;
        this.draw();
      });
      this.table = create("details", "chart-table");
      this.table.append(create("summary", "", "Values and events as a table"));
      this.table.addEventListener("toggle", () => this.fillTable());
      this.foot.append(this.clock, this.scale);
      this.root.append(this.canvas, this.foot, this.legend, this.note, this.spoken, this.table);
      this.panel.after(this.root);
      this.canvas.addEventListener("keydown", (event) => this.onKey(event));
      this.canvas.addEventListener("blur", () => this.select(null));
    }

    // ---- data

    async load() {
      const request = ++this.request;
      const isLive = range.isLive();
      const address = new URL(this.section.dataset.chart, location.origin);
      for (const [name, value] of range.parameters()) address.searchParams.set(name, value);
      const titles = marks.chosen();
      if (titles.length) address.searchParams.set("marks", titles.join("|"));
      let data;
      try {
        const response = await fetch(address, { headers: { accept: "application/json" } });
        if (!response.ok) throw new Error((await response.json()).detail ?? response.statusText);
        data = await response.json();
      } catch (error) {
        if (request !== this.request) return;
        this.showNote("The samples could not be read: " + error.message, true);
        if (this.data === null) setTimeout(() => request === this.request && this.load(), RETRY_AFTER);
        return;
      }
      if (request !== this.request) return;
      this.loadedAt = times.now();
      this.data = data;
      this.window = { since: data.since, until: data.until, isLive };
      if (this.isLog === null) this.isLog = data.scale === "log";
      this.lines = data.lines.map((line) => ({ ...line, id: JSON.stringify(line.key), step: usualStep(line.times) }));
      this.showNote(data.more ? data.more.toLocaleString("en") + " more lines with lower values are not shown." : "", false);
      this.show();
      this.acceptFrame();
      this.draw();
    }

    show() {
      const isEmpty = this.lines.every((line) => line.times.length === 0);
      this.section.classList.toggle("charted", !isEmpty || !this.window.isLive);
      this.root.hidden = isEmpty && this.window.isLive;
      if (isEmpty && !this.window.isLive) this.showNote("No samples in this range.", false);
    }

    showNote(text, isProblem) {
      this.note.textContent = text;
      this.note.hidden = text === "";
      this.note.classList.toggle("bad", isProblem);
      if (isProblem) this.root.hidden = false;
    }

    // The newest samples that a live frame brought. Older ones have been read already.
    acceptFrame() {
      if (this.data === null || !this.window.isLive) return;
      const text = this.panel.querySelector("figure.series")?.dataset.live;
      if (!text || text === this.frame) return;
      this.frame = text;
      const known = new Map(this.lines.map((line) => [line.id, line]));
      let isOther = false;
      let changed = false;
      for (const [key, points, noDataFor] of JSON.parse(text)) {
        const line = known.get(JSON.stringify(key));
        if (line === undefined) isOther = true;
        else {
          changed = append(line, points, this.data.step) || line.noDataFor !== noDataFor || changed;
          line.noDataFor = noDataFor;
        }
      }
      const age = times.now() - this.loadedAt;
      if (isOther && !this.data.is_computed && age > RETRY_AFTER) this.load();
      else if (changed) this.draw();
    }

    // Moves a live chart on, and reads it again once much of it came from frames.
    tick() {
      if (this.data === null || !this.window.isLive || document.hidden || this.isDragging) return;
      const now = times.now();
      const span = this.window.until - this.window.since;
      const patience = this.data.is_computed ? SHORTEST_REFETCH : Math.max(span * REFETCH_SHARE, SHORTEST_REFETCH);
      if (now - this.loadedAt > (this.data.step >= LONG_STEP ? LONG_STEP_REFETCH : Math.max(patience, this.data.step / 2))) {
        void this.load();
        return;
      }
      const width = this.canvas.clientWidth || 600;
      if (now - this.window.until < span / width) return;
      this.window = { since: now - span, until: now, isLive: true };
      this.draw();
    }

    // ---- drawing

    get isStacked() {
      return this.data.style === "stacked";
    }

    get isHeatMap() {
      return this.data.style === "heatmap";
    }

    get isBars() {
      return this.data.style === "bars";
    }

    // Whether each line has a row of its own: the bars of several would hide each other.
    get isRows() {
      return this.isHeatMap || (this.isBars && this.lines.filter((line) => this.isVisible(line)).length > 1);
    }

    columns() {
      for (const line of this.lines) drop(line, this.window.since);
      const visible = this.lines.filter((line) => this.isVisible(line));
      const aligned = align(visible);
      if (!this.isStacked) return { own: aligned, drawn: aligned };
      const holds = visible.map((line) => Math.max(line.step, this.data.step) * GAP_STEPS);
      return { own: aligned, drawn: stack(aligned, holds) };
    }

    isVisible(line) {
      return this.only === null || this.only === line.id;
    }

    draw() {
      if (this.data === null || this.root.hidden) return;
      const visible = this.lines.filter((line) => this.isVisible(line));
      const { own, drawn } = this.columns();
      this.own = own;
      const shape = JSON.stringify([visible.map((line) => line.id), this.data.style, this.isLog, this.data.levels.length]);
      if (this.plot === null || shape !== this.shape) {
        this.canvas.style.height = this.isBars && this.isRows ? Math.max(visible.length * ROW_HEIGHT + 36, 100) + "px" : "";
        this.plot?.destroy();
        this.shape = shape;
        this.plot = new uPlot(this.options(visible), drawn, this.canvas);
        this.plot.over.addEventListener("mousedown", () => (this.isDragging = true));
      } else this.plot.setData(drawn);
      this.scale.setAttribute("aria-pressed", String(this.isLog));
      this.scale.hidden = this.isRows || this.isStacked;
      this.fillLegend();
      if (this.table.open) this.fillTable();
    }

    resize() {
      if (this.plot === null) return;
      const { clientWidth: width, clientHeight: height } = this.canvas;
      if (width && height && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
    }

    colorOf(line) {
      return token("hue-" + (this.lines.indexOf(line) % SVG_HUES));
    }

    options(visible) {
      const quiet = token("quiet");
      const axis = {
        stroke: quiet,
        font: "11px " + token("mono"),
        grid: { stroke: token("line"), width: 1 },
        ticks: { show: false },
      };
      const form = this.data.format;
      const isBars = this.isBars;
      const isRows = this.isRows;
      const isCells = isBars || isRows;
      const rows = isRows ? visible.map((line) => line.name) : [];
      return {
        width: this.canvas.clientWidth,
        height: this.canvas.clientHeight,
        ms: 1,
        tzDate: (moment) => uPlot.tzDate(new Date(moment), times.zoneName()),
        legend: { show: false },
        padding: [8, 18, 0, 0],
        cursor: {
          y: false,
          drag: { x: true, y: false, setScale: false, dist: 6 },
          points: { size: 7 },
          sync: { key: SYNC, scales: ["x", null], filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        },
        scales: {
          x: { time: true, range: () => [this.window.since, this.window.until] },
          y: isRows ? { range: [0, rows.length] } : this.isLog ? { distr: 3 } : { range: (plot, low, high) => this.valueRange(low, high) },
        },
        axes: [
          { ...axis, size: 28, space: 70, values: timeMarks() },
          {
            ...axis,
            size: (plot, values) => Math.max(40, ...(values ?? []).map((text) => (text ?? "").length * 6.7 + 12)),
            incrs: increments(form),
            space: 34,
            values: (plot, splits) => splits.map((value) => (value === null ? null : formatMark(value, form))),
            ...(isRows && {
              grid: { show: false },
              splits: () => rows.map((name, row) => row + 0.5),
              values: () => rows.map((name) => (name.length > 18 ? "\u2026" + name.slice(-17) : name)),
            }),
          },
        ],
        series: [
          {},
          ...visible.map((line) => {
            const place = this.lines.indexOf(line);
            const hue = token("hue-" + (place % SVG_HUES));
            const isFilled = this.isStacked || this.data.style === "area";
            return {
              label: line.name,
              stroke: hue,
              width: 1.5,
              dash: isFilled ? [] : DASHES[place % DASHES.length],
              fill: isFilled ? hue + (this.isStacked ? "66" : "2e") : undefined,
              paths: isCells ? () => null : undefined,
              points: isCells ? { show: false } : { show: (plot, series, first, last) => last - first < 3 },
            };
          }),
        ],
        // Each stacked area reaches down to the one below.
        bands: this.isStacked ? visible.slice(1).map((line, place) => ({ series: [place + 2, place + 1] })) : [],
        drawOrder: ["axes", "series"],
        hooks: {
          draw: [
            (plot) => {
              if (this.isHeatMap) marks.drawCells(plot, visible, this.data, token);
              if (isBars) marks.drawBars(plot, visible, this.data, (line) => this.colorOf(line), token);
              if (!isRows) this.drawLevels(plot);
              marks.place(plot, this.data.marks);
            },
          ],
          setCursor: [(plot) => this.readCursor(plot)],
          setSelect: [(plot) => this.onSelect(plot)],
        },
      };
    }

    valueRange(low, high) {
      const levels = this.data.levels.map((level) => level.value);
      const least = Math.min(0, low ?? 0);
      const most = Math.max(high ?? 0, ...levels);
      if (this.data.format === "percent" && least === 0 && most <= 1 && most > 0.5) return [0, 1.02];
      return [least, most > least ? most + (most - least) * 0.08 : least + 1];
    }

    drawLevels(plot) {
      const { ctx, bbox } = plot;
      for (const level of this.data.levels) {
        const y = Math.round(plot.valToPos(level.value, "y", true)) + 0.5;
        if (!(y >= bbox.top && y <= bbox.top + bbox.height)) continue;
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = token({ WARN: "warn", ERROR: "error", FATAL: "error" }[level.severity] ?? "quiet");
        ctx.lineWidth = devicePixelRatio;
        ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
        ctx.beginPath();
        ctx.moveTo(bbox.left, y);
        ctx.lineTo(bbox.left + bbox.width, y);
        ctx.stroke();
        ctx.font = 10 * devicePixelRatio + "px " + token("mono");
        ctx.textAlign = "right";
        const isHigh = y - bbox.top > 14 * devicePixelRatio;
        ctx.textBaseline = isHigh ? "bottom" : "top";
        // The legend has those that colour bars.
        if (!this.isBars || !level.colors) ctx.fillText(level.title + " " + format(level.value, this.data.format), bbox.left + bbox.width - 4, y + (isHigh ? -2 : 3));
        ctx.restore();
      }
    }

    // ---- legend and readout

    fillLegend() {
      const coloring = this.isBars ? this.data.levels.filter((level) => level.colors) : [];
      const rows = this.lines.map((line, place) => {
        const item = create("li");
        const button = create("button", "plain");
        button.type = "button";
        button.dataset.line = line.id;
        button.title = "Show this line alone, or all again";
        button.setAttribute("aria-pressed", String(this.only === line.id));
        button.classList.toggle("off", !this.isVisible(line));
        const swatch = create("span", "swatch");
        swatch.dataset.line = String(place % SVG_HUES);
        swatch.setAttribute("aria-hidden", "true");
        if (!coloring.length) button.append(swatch);
        button.append(create("span", "line-name", line.name), " ", create("b", "figure"));
        button.addEventListener("click", () => {
          this.only = this.only === line.id ? null : line.id;
          this.draw();
          this.legend.querySelectorAll("button")[place]?.focus();
        });
        item.append(button);
        return item;
      });
      for (const level of coloring) {
        const item = create("li");
        const swatch = create("span", "swatch");
        swatch.dataset.severity = level.severity;
        swatch.setAttribute("aria-hidden", "true");
        item.append(swatch, level.title + " " + format(level.value, this.data.format));
        rows.push(item);
      }
      // The focus stays on a button that the pointer or the keyboard is at.
      const names = this.lines.map((line) => line.id + this.isVisible(line) + this.only).join();
      if (names !== this.legendOf) this.legend.replaceChildren(...rows);
      this.legendOf = names;
      this.readCursor(this.plot);
    }

    valueAt(line, place) {
      const index = this.lines.filter((other) => this.isVisible(other)).indexOf(line);
      return index < 0 ? undefined : this.own[index + 1]?.[place];
    }

    readCursor(plot) {
      if (plot === null || this.data === null || this.own === undefined) return;
      const isCells = this.isBars || this.isHeatMap;
      const at = isCells && plot.cursor.idx !== null ? this.stepAt(plot.posToVal(plot.cursor.left, "x")) : plot.cursor.idx;
      // The place is of the data before, until uPlot has the new data.
      const isHovering = at !== null && at < this.own[0].length && plot.cursor.left >= 0;
      const visible = this.lines.filter((line) => this.isVisible(line));
      const readings = this.lines.map((line) => {
        const index = visible.indexOf(line);
        if (!isHovering || index < 0) return lastValue(line.values);
        const place = isCells ? at : plot.cursor.idxs[index + 1];
        return place === null || place === undefined ? null : (this.own[index + 1][place] ?? null);
      });
      const figures = this.legend.querySelectorAll("b");
      readings.forEach((value, place) => {
        const stopped = this.window.isLive && !isHovering ? this.lines[place].noDataFor : "";
        const text = stopped ? "no data for " + stopped : format(value, this.data.format);
        if (figures[place] && figures[place].textContent !== text) figures[place].textContent = text;
      });
      const text = isHovering ? times.formatFull(this.own[0][at]).replace(/\.\d{3}/, "") : times.formatRange(this.window.since, this.window.until);
      if (this.clock.textContent !== text) this.clock.textContent = text;
    }

    // The place of the step that a moment is in.
    stepAt(moment) {
      const [moments] = this.own;
      // What lies exactly at the start of a step is a little before it, once it has been a place.
      const reached = moment + this.data.step * 0.01;
      let place = moments.length - 1;
      while (place > 0 && moments[place] > reached) place--;
      return place;
    }

    fillTable() {
      if (!this.table.open || this.data === null) return;
      const table = create("table");
      table.append(create("caption", "hidden", this.title));
      const head = create("tr");
      const visible = this.lines.filter((line) => this.isVisible(line));
      for (const text of ["Time", ...visible.map((line) => line.name)]) {
        const cell = create("th", "", text);
        cell.scope = "col";
        head.append(cell);
      }
      const body = create("tbody");
      const [moments, ...values] = this.own;
      for (let place = moments.length - 1; place >= Math.max(0, moments.length - TABLE_ROWS); place--) {
        const row = create("tr");
        const cell = create("th", "figure", times.formatFull(moments[place]).replace(/\.\d{3}/, ""));
        cell.scope = "row";
        row.append(cell, ...values.map((column) => create("td", "figure right", format(column[place], this.data.format))));
        body.append(row);
      }
      const header = create("thead");
      header.append(head);
      table.append(header, body);
      const scroller = create("div", "table-scroll");
      scroller.tabIndex = 0;
      scroller.setAttribute("role", "group");
      scroller.setAttribute("aria-label", "Values of " + this.title);
      scroller.append(table);
      this.table.replaceChildren(this.table.querySelector("summary"), scroller, marks.list(this.data.marks));
    }

    // ---- zoom and keyboard

    onSelect(plot) {
      this.isDragging = false;
      const { left, width } = plot.select;
      for (const chart of charts) chart.plot?.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      if (width > 5) range.zoomTo(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
    }

    select(places) {
      this.selection = places;
      const plot = this.plot;
      if (plot === null) return;
      const [from, to] = places === null ? [0, 0] : places.map((place) => plot.valToPos(this.own[0][place], "x"));
      plot.setSelect({ left: Math.min(from, to), width: Math.abs(to - from), top: 0, height: places === null ? 0 : plot.over.clientHeight }, false);
    }

    onKey(event) {
      const count = this.own?.[0].length ?? 0;
      if (!count || event.ctrlKey || event.metaKey || event.altKey) return;
      const place = this.cursor === null ? count - 1 : Math.min(this.cursor, count - 1);
      const step = event.key.startsWith("Page") ? Math.max(1, Math.round(count / 10)) : 1;
      let next;
      if (event.key === "ArrowLeft" || event.key === "PageUp") next = this.cursor === null ? place : place - step;
      else if (event.key === "ArrowRight" || event.key === "PageDown") next = this.cursor === null ? place : place + step;
      else if (event.key === "Home") next = 0;
      else if (event.key === "End") next = count - 1;
      else if (event.key === "Enter" && this.selection !== null) {
        const [from, to] = this.selection.map((index) => this.own[0][index]);
        this.select(null);
        range.zoomTo(Math.min(from, to), Math.max(from, to));
        event.preventDefault();
        return;
      } else if (event.key === "Escape" && this.cursor !== null) {
        this.cursor = null;
        this.select(null);
        this.plot.setCursor({ left: -10, top: -10 }, true, true);
        event.preventDefault();
        return;
      } else return;
      event.preventDefault();
      next = Math.min(Math.max(next, 0), count - 1);
      if (event.shiftKey) this.select([this.selection?.[0] ?? place, next]);
      else if (this.selection !== null) this.select(null);
      this.cursor = next;
      this.plot.setCursor({ left: this.plot.valToPos(this.own[0][next], "x"), top: 10 }, true, true);
      this.speak(next);
    }

    speak(place) {
      const readings = this.lines.filter((line) => this.isVisible(line)).map((line) => [line.name, this.valueAt(line, place)]);
      const values = readings.filter(([, value]) => value !== undefined).map(([name, value]) => name + " " + (value === null ? "no data" : format(value, this.data.format)));
      this.spoken.textContent = times.formatFull(this.own[0][place]).replace(/\.\d{3}/, "") + ": " + values.join(", ");
    }
  }

  // Days below the first mark of each, times alone otherwise.
  const timeMarks = () => [
    [31_536_000_000, "{YYYY}", null, null, null, null, null, null, 1],
    [86_400_000, "{MMM} {DD}", null, null, null, null, null, null, 1],
    [3_600_000, "{HH}:{mm}", null, null, "{MMM} {DD}", null, null, null, 0],
    [60_000, "{HH}:{mm}", null, null, null, null, null, null, 1],
    [1000, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1],
    [1, "{ss}.{fff}", null, null, null, null, null, null, 1],
  ];

  const redraw = () => {
    for (const chart of charts) {
      chart.plot?.destroy();
      chart.plot = null;
      chart.draw();
    }
  };

  const sections = document.querySelectorAll("section[data-chart]");
  const reload = () => {
    for (const chart of charts) if (chart.data !== null) chart.load();
  };
  if (sections.length && !range.isPlayed()) (sections[0].closest(".grid") ?? sections[0]).before(range.notice, marks.buildChoice(sections, reload));
  // The pictures of the server show a playback.
  if (!range.isPlayed()) for (const section of sections) charts.push(new Chart(section));
  document.addEventListener("almenara:range", reload);
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", redraw);
  document.addEventListener("almenara:zone", redraw);
  document.addEventListener("mouseup", () => {
    for (const chart of charts) chart.isDragging = false;
  });
  setInterval(() => {
    for (const chart of charts) chart.tick();
  }, 1000);
})();
