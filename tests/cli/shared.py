"""One command in the test's own process: its JSON, or its one message."""

import json

from mrtsim.cli import main


def commands(*command):
    """Functions of (capsys, arguments): the JSON that the command prints, and the message that it refuses with."""

    def leaves(capsys, arguments):
        try:
            code = main([*command, *map(str, arguments)])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    def answer(capsys, *arguments):
        code, out, err = leaves(capsys, [*arguments, "--json"])
        assert (code, err, out.count("\n")) == (0, "", 1)
        return strictly(out)

    def refusal(capsys, *arguments):
        code, out, err = leaves(capsys, arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith(" ".join(("mrtsim", *command)))
        return err

    return answer, refusal


def strictly(text):
    """What JSON text holds, without the NaN and Infinity that Python would read."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)
