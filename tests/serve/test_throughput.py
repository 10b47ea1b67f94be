from areal_gsm8k.serve import throughput
from areal_gsm8k.serve.throughput import Throughput


def test_the_rate_is_that_of_the_last_whole_window(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    counted = Throughput()
    for _ in range(50):
        now[0] += 0.1
        counted.add(6)
    assert 55 <= counted.rate() <= 65
    now[0] += 5.0
    assert counted.rate() == 0.0  # idle
    counted.add(6)  # the first token after idling is no rate of its own
    assert counted.rate() == 0.0


def test_the_server_tells_it(embedded):
    for path in ("/server_info", "/get_server_info"):
        status, info = embedded.call(path)
        assert status == 200 and info["internal_states"][0]["last_gen_throughput"] >= 0
