"""Laws of `vaekit completion`: each shell offers the commands, options and parts that there are."""

import shutil
import subprocess

import pytest
from helpers.commands import command

import vaekit


def script(shell, capsys):
    assert command("completion", shell) == 0
    return capsys.readouterr().out


def offered(shell, text, words):
    """What a shell completes the last of these words to."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    if shell == "fish":
        line = " ".join(words)
        done = subprocess.run(["fish", "--no-config", "-c", f"{text}\ncomplete -C '{line}'"], capture_output=True, text=True)
        return [row.partition("\t")[0] for row in done.stdout.splitlines()]
    call = f"COMP_WORDS=({' '.join(words)} ''); COMP_CWORD={len(words) - 1}; _vaekit; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run([shell, "-c", f"{text}\n{call}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["vaekit", "tr"], ["train"]),
        (["vaekit", "train", "--prese"], ["--preset"]),
        (["vaekit", "train", "--preset", "dense"], ["dense-mnist"]),
        (["vaekit", "train", "--preset", "dense-mnist", "--plan"], ["--planned-epochs"]),
        (["vaekit", "train", "mnist5"], ["mnist5k"]),
        (["vaekit", "list", "encod"], ["encoders"]),
        (["vaekit", "list", "losses", "iw"], ["iwae"]),
        (["vaekit", "completion", "fi"], ["fish"]),
    ],
    ids=lambda words: words[-1],
)
def test_what_a_shell_offers(shell, words, expected, capsys):
    assert offered(shell, script(shell, capsys), words) == expected


def test_after_a_module_that_is_imported_comes_the_command(capsys):
    assert offered("bash", script("bash", capsys), ["vaekit", "--import", "train", "ev"]) == ["evaluate"]


def test_every_part_is_there_in_every_shell(capsys):
    for shell in ("bash", "zsh", "fish"):
        text = script(shell, capsys)
        for kind in ("encoders", "losses", "presets", "trackers"):
            assert " ".join(getattr(vaekit, kind).names()) in text


def test_zsh_reads_its_script(capsys):
    if shutil.which("zsh") is None:
        pytest.skip("no zsh here")
    done = subprocess.run(["zsh", "-f", "-c", script("zsh", capsys)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_refused(mistake):
    assert "powershell" in mistake("completion", "powershell")
