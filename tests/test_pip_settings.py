"""What pip is configured with reaches uv: requirements/pip_settings.py. The addresses are invented."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_pip_settings_are_handed_on():
    spec = importlib.util.spec_from_file_location("pip_settings", ROOT / "requirements" / "pip_settings.py")
    pip_settings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pip_settings)
    listing = "\n".join(
        [
            "global.find-links='\\n/a\\n/b'",
            "install.index-url='https://user:p%40ss@mirror.example/simple'",
            "global.index-url='https://other.example/simple'",
            ":env:.cert='/etc/bundle.pem'",
            "global.timeout='60'",
            "download.find-links='/never'",
        ]
    )
    found = pip_settings.settings(listing)
    assert found == {
        "find-links": ["/a", "/b"],
        "index-url": ["https://user:p%40ss@mirror.example/simple"],
        "cert": ["/etc/bundle.pem"],
    }
    lines = pip_settings.exports(found, {"SSL_CERT_FILE": "/mine.pem"})
    assert lines == ["export UV_FIND_LINKS=/a,/b", "export UV_DEFAULT_INDEX=https://user:p%40ss@mirror.example/simple"]
