"""Creators in the admin."""

import pytest
from django.test import Client
from django.urls import reverse

from knowledge.models import Creator

pytestmark = pytest.mark.django_db


def test_the_tier_of_each_creator_has_a_name_of_its_own_and_is_changed_in_the_list(admin_client: Client) -> None:
    creator = Creator.objects.create(name="InstaSD", slug="instasd", tier="high")
    url = reverse("admin:knowledge_creator_changelist")
    assert 'aria-label="Tier of InstaSD"' in admin_client.get(url).content.decode()
    sent = {
        "form-TOTAL_FORMS": 1,
        "form-INITIAL_FORMS": 1,
        "form-0-id": creator.pk,
        "form-0-tier": "low",
        "_save": "Save",
    }
    assert admin_client.post(url, sent).status_code == 302
    creator.refresh_from_db()
    assert creator.tier == "low"
