// Times on pages, all in one zone that the page names, and copies of rows, which carry full times.
// `almenara.js` uses it.
const almenaraTimes = (() => {
  "use strict";

  const body = document.body;

  const stored = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const store = (key, value) => {
    try {
      localStorage.setItem(key, value);
    } catch {
      // Without storage, preferences last until the page is left.
    }
  };

  // The clock of the viewer's machine may be wrong: ages are measured by the server's clock.
  const drift = Number(body.dataset.renderedAt) / 1000 - Date.now();
  const clockOffset = Math.abs(drift) > 2000 ? drift : 0;
  const serverNow = () => Date.now() + clockOffset;

  // ---- times

  let showAges = stored("almenara.times") !== "clock";
  const UNITS = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "m"], [1000, "s"]];

  const formatAge = (moment) => {
    const passed = serverNow() - moment;
    const length = Math.abs(passed);
    if (length < 1000) return "now";
    if (length > 365 * 86_400_000) return new Date(moment).toISOString().slice(0, 10);
    const [unit, letter] = UNITS.find(([unit]) => length >= unit);
    const text = Math.floor(length / unit) + letter;
    return passed < 0 ? "in " + text : text;
  };

  // All times of a page are in one zone, which the page names: UTC, as the server writes them, or
  // the zone of the viewer's machine.
  const LOCAL_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
  let zone = stored("almenara.zone") === "local" ? "local" : "UTC";
  let hasLocalTimes = zone === "local";
  const offsetMinutes = (moment) => (zone === "UTC" ? 0 : -new Date(moment).getTimezoneOffset());
  const toZone = (moment) => new Date(moment + offsetMinutes(moment) * 60_000).toISOString();
  const zoneLabel = (moment) => {
    const offset = offsetMinutes(moment);
    if (zone === "UTC") return "UTC";
    const clock = new Date(Math.abs(offset) * 60_000).toISOString().slice(11, 16);
    return "UTC" + (offset < 0 ? "\u2212" : "+") + clock;
  };
  const formatClock = (moment) => toZone(moment).slice(11, 19);
  const formatFull = (moment) => toZone(moment).slice(0, 23).replace("T", " ") + " " + zoneLabel(moment);
  const momentOf = (time) => Date.parse(time.dateTime);

  const isAbsolute = (time) => "absolute" in time.dataset || time.closest(".detail") !== null;
  const refreshTimes = () => {
    for (const time of document.querySelectorAll(hasLocalTimes ? "time" : "time:not([data-absolute])")) {
      const absolute = isAbsolute(time);
      if (absolute && !hasLocalTimes) continue;
      const moment = momentOf(time);
      if (Number.isNaN(moment)) continue;
      // A time of day keeps its precision: 8 characters to the second, 12 to the millisecond.
      const length = absolute ? time.textContent.trim().length : 12;
      if (length !== 8 && length !== 12) continue;
      const text = showAges && !absolute ? formatAge(moment) : toZone(moment).slice(11, 11 + length);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const showZone = () => {
    const other = zone === "UTC" ? LOCAL_ZONE : "UTC";
    for (const button of document.querySelectorAll(".zone-switch")) {
      const short = "short" in button.dataset;
      button.hidden = false;
      button.disabled = false;
      button.textContent = (short ? "" : "Times in ") + zoneLabel(Date.now());
      button.title = "Times are in " + (zone === "UTC" ? "UTC" : LOCAL_ZONE) + ". Switch to " + other + ".";
    }
    for (const name of document.querySelectorAll(".zone-name")) name.textContent = zoneLabel(Date.now());
  };

  const toggleZone = () => {
    zone = zone === "UTC" ? "local" : "UTC";
    hasLocalTimes = true;
    store("almenara.zone", zone);
    showZone();
    refreshTimes();
    document.dispatchEvent(new Event("almenara:zone"));
  };

  for (const button of document.querySelectorAll(".zone-switch")) button.addEventListener("click", toggleZone);
  document.addEventListener("pointerover", (event) => {
    const time = event.target.closest?.("time");
    if (time && !Number.isNaN(momentOf(time))) time.title = formatFull(momentOf(time));
  });

  const toggleTimes = () => {
    showAges = !showAges;
    store("almenara.times", showAges ? "ages" : "clock");
    body.classList.toggle("clocks", !showAges);
    refreshTimes();
  };

  // ---- selecting and copying rows

  const selectsRow = (link) => {
    const selection = getSelection();
    return selection.type === "Range" && selection.containsNode(link, true);
  };
  // A link is dragged by default, which keeps its text from being selected.
  document.addEventListener("pointerdown", (event) => {
    const link = event.target.closest?.(".event-link, .step-body");
    if (link) link.draggable = false;
  });
  document.addEventListener(
    "click",
    (event) => {
      const link = event.target.closest?.(".event-link, .step-body");
      if (link && selectsRow(link)) event.preventDefault();
    },
    { capture: true },
  );

  // An age means nothing where it is pasted: copies carry the full time, a row a line.
  const textOf = (node) => {
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    const parts = [];
    while (walker.nextNode()) parts.push(walker.currentNode.data.trim());
    return parts.filter((part) => part !== "").join("\t");
  };
  document.addEventListener("copy", (event) => {
    const selection = getSelection();
    if (!selection.rangeCount || event.target.closest?.("input, textarea")) return;
    const copied = selection.getRangeAt(0).cloneContents();
    const times = copied.querySelectorAll(".event time");
    const inRow = copied.querySelector("time") && selection.anchorNode.parentElement?.closest(".event");
    if (!times.length && !inRow) return;
    for (const time of copied.querySelectorAll("time")) time.textContent = formatFull(momentOf(time));
    const rows = copied.querySelectorAll(".event");
    const lines = rows.length ? [...rows].map(textOf) : [textOf(copied)];
    event.clipboardData.setData("text/plain", lines.filter((line) => line !== "").join("\n"));
    event.preventDefault();
  });

  body.classList.toggle("clocks", !showAges);
  showZone();

  return {
    stored,
    store,
    refresh: refreshTimes,
    toggleAges: toggleTimes,
    toggleZone,
    formatSince: (moment) => formatClock(moment + clockOffset) + " " + zoneLabel(moment),
  };
})();
