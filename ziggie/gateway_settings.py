"""The settings of `manage.py gateway`: those of everything else, without the applications that it does not serve.

Pages, admin, REST and what belongs to them are a second of imports and a third of the memory.
"""

from ziggie.settings import *  # noqa: F403 - all of them

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.postgres",
    "django_q",
    "ziggie",
    "routing",
]
