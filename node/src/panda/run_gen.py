#!/usr/bin/env python3
"""Runs a user's job: unpacks the sandbox, runs the command, and gives its outputs their names."""

import ast
import getopt
import os
import subprocess
import sys
import tarfile
import time
import urllib.parse
import urllib.request

EXIT_SANDBOX = 40
EXIT_OUTPUT = 102
TRIES = 3


def say(text):
    print(time.strftime("%Y-%m-%d %H:%M:%S ", time.gmtime()) + text, flush=True)


def end(code, text):
    say(text)
    sys.exit(code)


def fetch(url, name):
    for number in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(url, timeout=300) as source, open(name, "wb") as target:
                while True:
                    part = source.read(1 << 20)
                    if not part:
                        return
                    target.write(part)
        except Exception as error:
            say(f"fetching {url}, try {number}: {error}")
            if number < TRIES:
                time.sleep(5 * number)
    end(EXIT_SANDBOX, f"the sandbox {name} cannot be fetched")


def unpack(name, folder):
    try:
        with tarfile.open(name) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(folder, filter="data")
            else:
                archive.extractall(folder)
    except Exception as error:
        end(EXIT_SANDBOX, f"the sandbox {name} cannot be unpacked: {error}")


def as_list(text):
    if text.startswith("["):
        return [str(item) for item in ast.literal_eval(text)]
    return [item for item in text.split(",") if item]


def main():
    # Options that take a value are told apart by their names; those of other wrappers are accepted and ignored.
    short = "i:o:r:j:l:p:a:m:n:f:"
    long = ["sourceURL=", "lfcHost=", "inputGUIDs=", "usePFCTurl", "oldPrefix=", "newPrefix=", "directIn", "libTgz=",
            "outMinBiasDS=", "rootVer=", "cmtConfig=", "useAthenaPackages", "useMana", "useRootCore", "wrkDir=",
            "preprocess", "postprocess", "execInContainer", "debug", "writeInputToTxt="]
    try:
        options, _ = getopt.gnu_getopt(sys.argv[1:], short, long)
    except getopt.GetoptError as error:
        end(2, f"wrong arguments: {error}")
    given = dict(options)
    top = os.getcwd()
    work = os.path.join(top, "workDir")
    os.makedirs(work, exist_ok=True)
    for option in ("-a", "--libTgz"):
        name = given.get(option, "")
        if name:
            if not os.path.exists(name):
                fetch(given.get("--sourceURL", "").rstrip("/") + "/cache/" + os.path.basename(name), name)
            unpack(name, work)
    run = os.path.normpath(os.path.join(work, given.get("-r", ".")))
    os.makedirs(run, exist_ok=True)
    inputs = as_list(given.get("-i", ""))
    for name in inputs:
        source, target = os.path.join(top, name), os.path.join(run, os.path.basename(name))
        if os.path.exists(source) and not os.path.exists(target):
            os.symlink(source, target)
    if "--writeInputToTxt" in given:
        for pair in given["--writeInputToTxt"].split(","):
            with open(os.path.join(run, pair.split(":")[-1]), "w") as listing:
                listing.write(",".join(inputs) + "\n")
    command = urllib.parse.unquote(given.get("-p", "") or given.get("-j", ""))
    command = command.replace("%IN", ",".join(inputs))
    say(f"running: {command}")
    code = subprocess.run(["/bin/bash", "-c", command], cwd=run).returncode
    say(f"the command ended with {code}")
    if code != 0:
        sys.exit(code if 0 < code < 256 else 1)
    missing = []
    for name, target in ast.literal_eval(given.get("-o", "{}") or "{}").items():
        made = os.path.join(run, name)
        if os.path.exists(made):
            os.replace(made, os.path.join(top, target))
        else:
            missing.append(name)
    if missing:
        end(EXIT_OUTPUT, f"the command made no {', '.join(missing)}")


if __name__ == "__main__":
    main()
