"""Command lines in this process, on a run that was never trained."""

import pytest
import untrained_run

from vla_jax.cli.main import main


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The directory of a run whose datasets are not on disk."""
    return untrained_run.write(tmp_path_factory.mktemp("run"))


@pytest.fixture
def vla_jax(capsys, monkeypatch):
    """Runs a command line in this process; returns exit code, standard output and error."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # The tests have their own.

    def call(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def refused(vla_jax):
    """Runs a command line that must fail as a mistake of the user; returns the one line."""

    def call(*arguments):
        code, out, err = vla_jax(*arguments)
        assert code == 1, (out, err)
        assert err.startswith("vla-jax: ")
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert "Traceback" not in err
        return err

    return call
