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
  zoomed.hidden = true;
  zoomed.setAttribute("role", "status");
  const zoomTo = (since, until) => {
    if (!(until - since >= SHORTEST)) return;
    const address = new URL(location.href);
    for (const name of ["range", "at"]) address.searchParams.delete(name);
    address.searchParams.set("since", new Date(since).toISOString());
    address.searchParams.set("until", new Date(until).toISOString());
    history.pushState({ zoom: true }, "", address);
    showZoom(since, until);
    document.dispatchEvent(new CustomEvent("almenara:range", { detail: { since, until } }));
  };
  const showZoom = (since, until) => {
    zoomed.replaceChildren("Charts show " + times.formatRange(since, until) + ". ", back);
    zoomed.hidden = false;
  };
  back.addEventListener("click", () => history.back());

  return { parameters, isLive, isPlayed, zoomTo, notice: zoomed };
})();
