// The range of time that the charts of a page show, which is in the page's address.
const almenaraRange = (() => {
  "use strict";

  const times = almenaraTimes;
  const NAMES = ["range", "since", "until", "at"];
  const SHORTEST = 1000;

  // The parameters of the page that choose what the server returns; it reads them for pages alike.
  const parameters = () => {
    const own = new URLSearchParams(location.search);
    return NAMES.filter((name) => own.get(name)).map((name) => [name, own.get(name)]);
  };
  // Whether charts end now, and so move on.
  const isLive = () => !parameters().some(([name]) => name === "until" || name === "at");
  // A playback is drawn by the server, once for all who watch it.
  const isPlayed = () => new URLSearchParams(location.search).has("play");

  const zoomed = document.createElement("p");
  const back = document.createElement("button");
  zoomed.className = "zoomed";
  back.className = "plain";
  back.textContent = "Show the range before";
  back.type = "button";
  const changes = document.createElement("a");
  changes.textContent = "What changed";
  zoomed.hidden = true;
  zoomed.setAttribute("role", "status");
  // Marks the entries of the history between which this document zooms; the rest of the page is the
  // same for all of them, so Back and Forward change the charts alone.
  const own = performance.timeOrigin;
  let unzoomed = location.search;
  const zoomTo = (since, until) => {
    if (!(until - since >= SHORTEST)) return;
    const address = new URL(location.href);
    for (const name of ["range", "at"]) address.searchParams.delete(name);
    address.searchParams.set("since", new Date(since).toISOString());
    address.searchParams.set("until", new Date(until).toISOString());
    if (history.state?.zoom !== own) {
      unzoomed = location.search;
      history.replaceState({ ...history.state, zoom: own }, "");
    }
    history.pushState({ zoom: own }, "", address);
    showZoom(since, until);
    document.dispatchEvent(new CustomEvent("almenara:range", { detail: { since, until } }));
  };
  const showZoom = (since, until) => {
    const bounds = [since, until].map((time) => new Date(time).toISOString());
    changes.href = "/changes?" + new URLSearchParams({ since: bounds[0], until: bounds[1] });
    zoomed.replaceChildren("Charts show " + times.formatRange(since, until) + ". ", back, " ", changes);
    zoomed.hidden = false;
  };
  back.addEventListener("click", () => history.back());
  addEventListener("popstate", (event) => {
    if (event.state?.zoom !== own) return;
    const names = new URLSearchParams(location.search);
    if (location.search === unzoomed) zoomed.hidden = true;
    else showZoom(Date.parse(names.get("since")), Date.parse(names.get("until")));
    document.dispatchEvent(new CustomEvent("almenara:range"));
  });

  return { parameters, isLive, isPlayed, zoomTo, notice: zoomed };
})();
