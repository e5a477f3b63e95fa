// The range of time that the charts of a page show, which is in the page's address.
const almenaraRange = (() => {
  "use strict";

  const times = almenaraTimes;
  const UNITS = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
  const SHORTEST = 1000;

  const readMoment = (text, now) => {
    const ago = /^(\d+)([smhdw])$/.exec(text ?? "");
    if (ago) return now - Number(ago[1]) * UNITS[ago[2]];
    const moment = Date.parse(text ?? "");
    return Number.isNaN(moment) ? null : moment;
  };
  // From when until when a chart shows; a live one ends now.
  const read = (span) => {
    const parameters = new URLSearchParams(location.search);
    const now = times.now();
    const end = readMoment(parameters.get("until") ?? parameters.get("at"), now);
    const until = end ?? now;
    const since = readMoment(parameters.get("range") ?? parameters.get("since"), until);
    return { since: since !== null && since < until ? since : until - span, until, isLive: end === null };
  };

  const zoomed = document.createElement("p");
  const back = document.createElement("button");
  zoomed.className = "zoomed";
  back.className = "plain";
  back.textContent = "Show the range before";
  back.type = "button";
  zoomed.hidden = true;
  zoomed.setAttribute("role", "status");
  let zoomDepth = 0;
  const zoomTo = (since, until) => {
    if (!(until - since >= SHORTEST)) return;
    const address = new URL(location.href);
    for (const name of ["range", "at"]) address.searchParams.delete(name);
    address.searchParams.set("since", new Date(since).toISOString());
    address.searchParams.set("until", new Date(until).toISOString());
    history.pushState({ zoom: ++zoomDepth }, "", address);
    showZoom(since, until);
    document.dispatchEvent(new CustomEvent("almenara:range", { detail: { since, until } }));
  };
  const showZoom = (since, until) => {
    zoomed.replaceChildren("Charts show " + times.formatRange(since, until) + ". ", back);
    zoomed.hidden = false;
  };
  back.addEventListener("click", () => history.back());

  return { read, zoomTo, notice: zoomed };
})();
