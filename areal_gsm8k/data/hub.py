"""The Hugging Face hub when there may be no network: one quick request instead of minutes of retries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class HubError(ValueError):
    """The hub does not have what was asked for."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, such as openai/gsm8k."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


@contextmanager
def hub_or_cache(name: str, repo_type: str) -> Iterator[bool]:
    """Inside the block the hub's libraries download if the hub answers within 5 s, else use only the local cache.

    repo_type is "model" or "dataset". Yields whether the hub answered. Raises HubError when the hub has no such name.
    """
    import httpx
    import huggingface_hub
    from datasets import config
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    saved = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    answered = True
    try:
        huggingface_hub.HfApi().repo_info(name, repo_type=repo_type, timeout=5)
    except RepositoryNotFoundError:
        raise HubError(f"no such {repo_type} on the hub") from None
    except (HfHubHTTPError, httpx.HTTPError, OfflineModeIsEnabled):
        answered = False
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield answered
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = saved
