"""`vaekit report`, and the one that every run leaves."""

from helpers.commands import QUICK, SMALL, command, write_data


def test_a_run_leaves_a_report_and_several_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "x.npz")
    for name in ("one", "two"):
        assert command("train", "x.npz", *SMALL, *QUICK, "--out", name) == 0
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        assert "log p(x), at least" in page
        assert "x.npz" in page
        assert page.count("data:image/png;base64,") == len(list((tmp_path / name).glob("*.png")))
    capsys.readouterr()
    assert command("report", "one", "two", "--out", "both.html") == 0
    assert capsys.readouterr().out.strip() == "both.html"
    assert "Side by side" in (tmp_path / "both.html").read_text(encoding="utf-8")
    (tmp_path / "one" / "report.html").unlink()
    assert command("report", "one", "--data", "x.npz") == 0
    assert (tmp_path / "one" / "report.html").is_file()


def test_what_is_no_run_is_said(tmp_path, capsys):
    assert command("report", tmp_path) == 2
    assert "there is no run at" in capsys.readouterr().err
