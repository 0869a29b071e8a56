"""The command line, called in this process."""

from typer.testing import CliRunner

from phalanx.cli.app import app


def phalanx(*words: object) -> str:
    """Return what `phalanx WORDS` prints; it must end well."""
    result = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout
