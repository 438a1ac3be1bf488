"""The gate that a power cut shuts: who waits inside for somebody who comes later must step outside."""

import threading

from fsbackend.powercut import Gate


def test_a_cut_passes_between_one_that_waits_and_the_one_it_waits_for() -> None:
    gate = Gate()
    answered, waits = threading.Event(), threading.Event()
    order: list[str] = []

    def seek() -> None:
        with gate.inside():
            with gate.outside():
                waits.set()
                assert answered.wait(20)
            order.append("seek")

    def write_back() -> None:
        with gate.inside():
            order.append("write")
            answered.set()

    seeker = threading.Thread(target=seek)
    seeker.start()
    assert waits.wait(20)
    writer = threading.Thread(target=write_back)
    with gate.shut():
        writer.start()
        writer.join(0.05)
        order.append("cut")
    for thread in (writer, seeker):
        thread.join(20)
        assert not thread.is_alive()
    assert order == ["cut", "write", "seek"]


def test_whoever_is_back_inside_is_waited_for() -> None:
    gate = Gate()
    inside, go = threading.Event(), threading.Event()

    def operation() -> None:
        with gate.inside():
            with gate.outside():
                pass
            inside.set()
            assert go.wait(20)

    thread = threading.Thread(target=operation)
    thread.start()
    assert inside.wait(20)
    cut = threading.Event()

    def shut() -> None:
        with gate.shut():
            cut.set()

    cutter = threading.Thread(target=shut)
    cutter.start()
    assert not cut.wait(0.05)
    go.set()
    assert cut.wait(20)
    for each in (thread, cutter):
        each.join(20)
