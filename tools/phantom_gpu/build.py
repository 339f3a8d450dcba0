#!/usr/bin/env python3
"""Builds stand-ins for every NVIDIA library that an installed CUDA build of PyTorch links to.

::

    python tools/phantom_gpu/build.py --environment .venv-phantom

What must exist is read off the binaries of torch and bitsandbytes: the libraries that they need, the symbols that they
leave undefined and the version at which each symbol is asked for. Functions written by hand (``src/``) win; the others
succeed and do nothing. The result goes to ``phantom/`` in the environment, because it belongs to those binaries.

Needs gcc, g++, readelf and nm; the CUDA headers are those of the environment's own NVIDIA wheels.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "src"
CORE = "libphantom.so"
HOOK = "allocator_hook.so"
BY_HAND = {
    "libcudart": ("cudart.c", None),
    "libcublas": ("blas.c", None),
    "libcublasLt": ("blas.c", "PHANTOM_LT"),
    "libcudnn": ("others.c", "PHANTOM_CUDNN"),
    "libcupti": ("others.c", "PHANTOM_CUPTI"),
    "libnccl": ("others.c", "PHANTOM_NCCL"),
    "libcuda": ("driver.c", None),
    "libnvidia-ml": ("nvml.c", None),
}
"""The hand-written part of a library, by stem: source and macro."""
OPENED_LATER = ("libcuda.so.1", "libnvidia-ml.so.1")
"""Libraries that nothing links to: torch and nvidia-ml-py open them by name."""
PREFIXES = {
    "cublasLt": "libcublasLt",
    "cublas": "libcublas",
    "cudnn": "libcudnn",
    "cusparseLt": "libcusparseLt",
    "cusparse": "libcusparse",
    "cusolver": "libcusolver",
    "cufft": "libcufft",
    "curand": "libcurand",
    "nccl": "libnccl",
    "nvrtc": "libnvrtc",
    "cupti": "libcupti",
    "cuFile": "libcufile",
    "nvshmem": "libnvshmem_host",
    "cuda": "libcudart",
    "__cuda": "libcudart",
    "cu": "libcuda",
}
"""Where a symbol that is asked for without a version lives, by prefix; longer prefixes first."""
STRINGS = re.compile(r"(GetErrorString|GetErrorName|GetStatusString|GetStatusName|GetLastError(String)?)$")
SYSTEM = re.compile(r"^(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libgomp.*|ld-linux.*|libutil|libz)\.so")
FLAGS = ("-O2", "-fPIC", "-w", "-fvisibility=hidden", "-DCUDNN_NO_DECLARATIONS")


@dataclass
class Library:
    """One stand-in.

    Attributes:
        soname: The name that the loader looks for.
        symbols: What must be defined, and at which version; empty where no version is asked for.
    """

    soname: str
    symbols: dict[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return self.soname.partition(".so")[0]


class BuildError(Exception):
    """The environment or the machine lacks something."""


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed(elf: Path) -> list[str]:
    """Names of the libraries that a binary links to."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", str(elf)))


def symbols(elf: Path, which: str) -> Iterator[tuple[str, str]]:
    """Dynamic symbols of a binary with their versions; ``which`` is an option of nm."""
    for line in output("nm", "-D", which, str(elf)).splitlines():
        name, _, version = line.split()[-1].partition("@")
        yield name, version.lstrip("@")


def version_files(elf: Path) -> dict[str, str]:
    """Version name -> library that must define it."""
    found, file = {}, ""
    for line in output("readelf", "-V", "-W", str(elf)).splitlines():
        if matched := re.search(r"File: (\S+)", line):
            file = matched[1]
        elif file and (matched := re.search(r"Name: (\S+)\s+Flags", line)):
            found[matched[1]] = file
    return found


def site_packages(environment: Path) -> Path:
    """Where a virtual environment keeps its packages.

    Raises:
        BuildError: it is none.
    """
    found = sorted(environment.glob("lib/python3*/site-packages"))
    if not found:
        raise BuildError(
            f"{environment} must be a virtual environment, but it has no site-packages; run `make phantom`"
        )
    return found[0]


def cuda_version(packages: Path) -> str:
    """``"13.0"``.

    Raises:
        BuildError: no torch, or one without CUDA.
    """
    file = packages / "torch/version.py"
    found = re.search(r"^cuda[^=]*= '(\d+\.\d+)'", file.read_text(), re.M) if file.exists() else None
    if found is None:
        raise BuildError(f"{packages} must hold a CUDA build of torch, but it does not")
    return found[1]


def wanted_libraries(packages: Path, cuda: str) -> list[Library]:
    """What the binaries of torch and bitsandbytes need of NVIDIA's libraries."""
    elves = sorted((packages / "torch/lib").glob("*.so*"))
    elves += sorted((packages / "bitsandbytes").glob(f"libbitsandbytes_cuda{cuda.replace('.', '')}.so"))
    elves = [elf for elf in elves if elf.is_file() and elf.read_bytes()[:4] == b"\x7fELF"]
    own = {elf.name for elf in elves}
    sonames = {name for elf in elves for name in needed(elf) if name not in own and not SYSTEM.match(name)}
    libraries = {name: Library(name) for name in sorted(name for name in sonames if "/" not in name)}
    by_stem = {library.stem: name for name, library in libraries.items()}
    defined = {name for elf in elves for name, _ in symbols(elf, "--defined-only")}
    for elf in elves:
        files = version_files(elf)
        for name, version in symbols(elf, "--undefined-only"):
            home = files.get(version) if version else None
            if home is None and not version and name not in defined:
                home = by_stem.get(_stem_of(name))
            if home in libraries:
                libraries[home].symbols[name] = version
    for soname in OPENED_LATER:
        libraries.setdefault(soname, Library(soname))
    return list(libraries.values())


def _stem_of(symbol: str) -> str:
    for prefix, stem in PREFIXES.items():
        if re.match(rf"{prefix}[A-Z_a-z]", symbol):
            return stem
    return ""


def build_library(library: Library, out: Path, includes: list[str]) -> int:
    """Write and compile one stand-in; returns how many of its functions are empty."""
    objects, written = [], set()
    if library.stem in BY_HAND:
        source, macro = BY_HAND[library.stem]
        made = out / f"{library.stem}.hand.o"
        run("gcc", *FLAGS, *includes, *([f"-D{macro}"] if macro else []), "-c", str(SOURCES / source), "-o", str(made))
        written = {line.split()[-1] for line in output("nm", "--defined-only", "-g", str(made)).splitlines()}
        objects.append(str(made))
    empty = sorted(name for name in library.symbols if name not in written)
    text = out / f"{library.stem}.stubs.c"
    text.write_text('#include "phantom.h"\n' + "".join(f"{_macro(name)}({name})\n" for name in empty))
    script = _version_script(library, out)
    run(
        *("gcc", "-shared", *FLAGS, *includes, f"-Wl,-soname,{library.soname}", *script, str(text), *objects),
        *("-o", str(out / library.soname), f"-L{out}", "-lphantom", "-Wl,-rpath,$ORIGIN", "-ldl", "-lpthread"),
    )
    return len(empty)


def _macro(symbol: str) -> str:
    says = STRINGS.search(symbol) and not symbol.startswith("cudnnGetLastErrorS")
    return "PHANTOM_STRING" if says else "PHANTOM_STUB"


def _version_script(library: Library, out: Path) -> list[str]:
    versions = sorted({version for version in library.symbols.values() if version})
    if not versions:
        return []
    file = out / f"{library.stem}.map"
    lines = []
    for version in versions:
        names = "; ".join(name for name, asked in library.symbols.items() if asked == version)
        lines.append(f"{version} {{ global: {'*' if len(versions) == 1 else names}; }};\n")
    file.write_text("".join(lines))
    return [f"-Wl,--version-script={file}"]


def run(*command: str) -> None:
    """Run a compiler.

    Raises:
        BuildError: it failed; with what it said.
    """
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise BuildError(f"{' '.join(command[:1])} failed:\n{ended.stderr[-2000:]}")


def build(environment: Path, out: Path) -> None:
    """Build everything for one environment.

    Raises:
        BuildError: a tool is missing, the environment has no CUDA build of torch, or a compiler failed.
    """
    for tool in ("gcc", "g++", "readelf", "nm"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} must be installed, but it is not found")
    packages = site_packages(environment)
    cuda = cuda_version(packages)
    out.mkdir(parents=True, exist_ok=True)
    headers = [*packages.glob("nvidia/*/include")]
    includes = [f"-I{SOURCES}", *(f"-I{folder}" for folder in headers)]
    core = [str(SOURCES / name) for name in ("core.c", "kernels.c")]
    run("gcc", "-shared", *FLAGS, *includes, f"-Wl,-soname,{CORE}", *core, "-o", str(out / CORE), "-lpthread", "-lm")
    torch_headers = packages / "torch/include"
    run(
        *(
            "g++",
            "-shared",
            "-std=c++20",
            "-O1",
            "-fPIC",
            "-w",
            f"-I{SOURCES / 'host'}",
            *includes,
            f"-I{torch_headers}",
        ),
        *(str(SOURCES / "allocator_hook.cpp"), "-o", str(out / HOOK), f"-L{out}", "-lphantom"),
        *(f"-L{packages / 'torch/lib'}", "-lc10_cuda", "-lc10", "-Wl,-rpath,$ORIGIN"),
    )
    names = [CORE]
    for library in wanted_libraries(packages, cuda):
        empty = build_library(library, out, includes)
        names.append(library.soname)
        print(f"{library.soname:24} {len(library.symbols):4} symbols asked for, {empty:4} of them empty")
    (out / "preload").write_text("\n".join(names) + "\n")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=Path(".venv-phantom"), help="with the CUDA build of torch")
    parser.add_argument("--out", type=Path, help="by default phantom/ in the environment")
    options = parser.parse_args()
    try:
        build(options.environment.resolve(), (options.out or options.environment / "phantom").resolve())
    except BuildError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
