"""Ctrl-C: the first is a request, the second an end; nobody else's handler is touched."""

import os
import signal
import threading

import pytest

from graft import interrupt


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_ctrl_c_is_a_request_and_says_what_happens(capfd):
    with interrupt.listening():
        assert not interrupt.asked()
        press()
        assert interrupt.asked()
    assert "Press it again to stop at once" in capfd.readouterr().err
    assert not interrupt.asked()


def test_the_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt), interrupt.listening():
        press()
        press()


def test_afterwards_ctrl_c_is_what_it_was():
    with interrupt.listening():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        press()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_handler_that_somebody_chose_stays(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with interrupt.listening():
            press()
            assert signal.getsignal(signal.SIGINT) is handler
            assert not interrupt.asked()
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_changes():
    seen = []

    def listen():
        with interrupt.listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
