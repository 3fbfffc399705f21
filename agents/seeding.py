"""The agents that a new installation starts with: one of each level."""

from agents.models import Agent

AGENTS = (
    {
        "slug": "director",
        "name": "Director",
        "level": "L1",
        "system_prompt": "You direct a small studio. Weigh the options, decide, and give the reasons in short.",
    },
    {
        "slug": "specialist",
        "name": "Specialist",
        "level": "L2",
        "system_prompt": "You are a specialist for game assets and their tools. Answer exactly and practically.",
    },
    {
        "slug": "assistant",
        "name": "Assistant",
        "level": "L3",
        "system_prompt": "You do one small task at a time. Answer in as few words as the task allows.",
    },
)


def seed() -> dict[str, int]:
    """Adds the agents that are missing; returns how many."""
    made = [Agent.objects.get_or_create(slug=row["slug"], defaults=row)[1] for row in AGENTS]
    return {"agents": sum(made)}
