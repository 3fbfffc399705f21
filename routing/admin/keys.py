"""API keys, as the base registers them, with what only routing knows: which models there are."""

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q

from routing.models import LanguageModel
from ziggie.admin import ApiKeyAdmin, ApiKeyForm
from ziggie.models import ApiKey

admin.site.unregister(ApiKey)


class KeyForm(ApiKeyForm):
    def clean_allowed_models(self) -> list[str]:
        """Names that are new here must be slugs; what stood there before may stay, so that a model that is gone keeps
        nobody from changing the rest."""
        names: list[str] = self.cleaned_data["allowed_models"]
        before = self.instance.allowed_models if self.instance.pk else ()
        added = [name for name in names if name not in before]
        known = set(LanguageModel.objects.filter(slug__in=added).values_list("slug", flat=True))
        wrong = [_unknown(name) for name in added if name not in known]
        if wrong:
            raise ValidationError(wrong)
        return names


def _unknown(name: str) -> str:
    named = LanguageModel.objects.filter(Q(name=name) | Q(aliases__contains=[name])).order_by("slug")
    slugs = ", ".join(named.values_list("slug", flat=True))
    return f"{name!r} is another name of {slugs}: write the slug" if slugs else f"there is no model {name!r}"


@admin.register(ApiKey)
class KeyAdmin(ApiKeyAdmin):
    form = KeyForm
