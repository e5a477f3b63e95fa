"""Derives stories: their phase, and since when they are in it."""

from almenara.units import SECOND
from almenara_agents.agents import StoryRecord
from almenara_agents.kinds import STORY
from almenara_agents.mapping import Fact
from almenara_agents.publication import Publication


def derive_story(publication: Publication, fact: Fact) -> None:
    """Derive from an event about a story."""
    story = load_story(publication, fact.story)
    before = story.phases[-1:]
    story.add(fact)
    if before and story.phases[-2:-1] == before:
        (since, _, phase), (until, _, _) = story.phases[-2:]
        publication.learn(phase, "phase", (until - since) / SECOND)
    store_story(publication, fact.story, story)


def add_tokens(publication: Publication, name: str, tokens: int, time: int) -> None:
    """Add the tokens that were used for a story."""
    if name and tokens:
        story = load_story(publication, name)
        story.tokens += tokens
        story.heard = max(story.heard, time)
        store_story(publication, name, story)


def load_story(publication: Publication, name: str) -> StoryRecord:
    """What is stored about a story."""
    return publication.state.get(f"story/{name}", StoryRecord) or StoryRecord()


def store_story(publication: Publication, name: str, story: StoryRecord) -> None:
    """Store and publish a story, and delete the stories above the limit."""
    state = publication.state
    story.origin = publication.origin or story.origin
    state.set(f"story/{name}", story)
    since, _, phase = story.phases[-1] if story.phases else (story.created, 0, "")
    publication.resource(
        STORY, name, phase or ("created" if story.created else "unknown"),
        {
            "title": story.title, "phase": phase, "since": since or story.heard,
            "created": story.created or None, "tokens": story.tokens,
            "cost": round(story.cost, 6) or None, "usual": publication.usual(phase, "phase"),
            "problem": "" if story.created else "no creation was reported",
        },
        origin=story.origin,
    )  # fmt: skip
    heard = state.get("stories", dict[str, int]) or {}
    heard[name] = story.heard
    while len(heard) > publication.settings.story_limit:
        oldest = min(heard, key=lambda each: (heard[each], each))
        del heard[oldest]
        state.delete(f"story/{oldest}")
        publication.delete(STORY, oldest)
    state.set("stories", heard)
