"""Checks the build context of the container file: it must suffice for cargo and contain only code."""

import json
import pathlib
import re
import subprocess
import tempfile

import chart


def main():
    rules = [line for line in (chart.ROOT / "deploy/Containerfile.dockerignore").read_text().splitlines()
             if line and not line.startswith("#")]
    tracked = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=chart.ROOT, text=True)
    kept = [path for path in tracked.splitlines() if not ignored(path, rules) and (chart.ROOT / path).exists()]
    with tempfile.TemporaryDirectory() as folder:
        for path in kept:
            copy = pathlib.Path(folder) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((chart.ROOT / path).read_bytes())
        answer = subprocess.check_output(
            ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version=1"], cwd=folder)
        packages = {package["name"]: package for package in json.loads(answer)["packages"]}
        built = re.findall(r"-p (\S+)", (chart.ROOT / "deploy/Containerfile").read_text())
        assert set(built) <= packages.keys(), f"{built} are not all packages"
        for package in packages.values():
            for target in package["targets"]:
                source = pathlib.Path(target["src_path"])
                assert source.exists() or "tests" in source.parts, f"the context lacks {source}"
        installed = set(re.findall(r"release/(\S+)", (chart.ROOT / "deploy/Containerfile").read_text()))
        programs = {t["name"] for p in packages.values() for t in p["targets"] if "bin" in t["kind"]}
        assert installed <= programs, f"{installed - programs} are not programs"
        named = re.findall(r"--features (\S+)", (chart.ROOT / "deploy/Containerfile").read_text())
        features = {name for names in named for name in names.split(",")}
        missing = features - {f"{name}/{feature}" for name, p in packages.items() for feature in p["features"]}
    print(f"{len(kept)} files of {len(tracked.splitlines())} in the build context, {sorted(installed)}")
    assert not missing, f"no package has {missing}"
    users = re.findall(r"^USER (.*)$", (chart.ROOT / "deploy/Containerfile").read_text(), re.M)
    assert users == ["65532:65532"] * 5, users


def ignored(path, rules):
    """Applies the last rule that matches the path or one of its folders, as docker does."""
    result = False
    for rule in rules:
        keep, pattern = rule.startswith("!"), rule.lstrip("!")
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{expression}(/.*)?", path):
            result = not keep
    return result


if __name__ == "__main__":
    main()
