"""The creators that a new installation starts with."""

from knowledge.models import Creator

CREATORS = ({"slug": "instasd", "name": "InstaSD", "tier": "medium"},)


def seed() -> dict[str, int]:
    """Adds the creators that are missing; returns how many."""
    made = [Creator.objects.get_or_create(slug=row["slug"], defaults=row)[1] for row in CREATORS]
    return {"creators": sum(made)}
