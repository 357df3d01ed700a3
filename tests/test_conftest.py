import socket

import jax
import jax.numpy as jnp
import pytest


def test_there_are_eight_cpu_devices():
    assert len(jax.devices()) == 8
    assert jax.default_backend() == "cpu"


def test_rank_promotion_raises():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_the_network_is_blocked():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock,
        pytest.raises(RuntimeError, match="do not use the network"),
    ):
        sock.connect(("192.0.2.1", 80))


def test_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address, timeout=5) as client:
            assert client.getpeername() == address
