"""Builds ws2_32.dll and bcryptprimitives.dll with mingw-w64: build.py WINE_WS2_32 OUT_DIR.

WINE_WS2_32 is the ws2_32.dll of the Wine prefix, whose exports, ordinals too, ours must have: a function that
ws2_32.c defines as hv_NAME is exported as NAME, and every other one jumps to Wine's.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

CROSS = "x86_64-w64-mingw32-"
HERE = Path(__file__).parent


def exports(dll: Path) -> list[tuple[str, int]]:
    """List the names that a DLL exports, with their ordinals."""
    dump = subprocess.run([CROSS + "objdump", "-p", dll], check=True, capture_output=True, text=True).stdout
    base = int(re.findall(r"Ordinal Base\s+(\d+)", dump)[0])
    table = dump.split("[Ordinal/Name Pointer] Table")[1].split("\n\n")[0]
    rows = re.findall(r"\[\s*(\d+)\]\s+(?:\+base\[\s*\d+\]\s+[0-9a-f]+\s+)?(\w+)", table)
    return [(name, int(index) + base) for index, name in rows]


def stubs(names: list[str]) -> tuple[str, str]:
    """Write the list of Wine's functions, as a C header, and in assembly their pointers, with a jump to each.

    A pointer has the name that a compiler gives to an imported function, so that C calls Wine's by its own.
    """
    header = f"""\
enum {{ EXPORTS = {len(names)} }};
extern void *wine_exports[EXPORTS];
static const char *const export_names[EXPORTS] = {{ {", ".join(f'"{name}"' for name in names)} }};
"""
    pointers = "".join(f".globl __imp_{name}\n__imp_{name}: .quad 0\n" for name in names)
    jumps = "".join(f".globl stub_{name}\nstub_{name}: jmp *__imp_{name}(%rip)\n" for name in names)
    return header, f".data\n.balign 8\n.globl wine_exports\nwine_exports:\n{pointers}.text\n{jumps}"


def build(wine_ws2_32: Path, out: Path) -> None:
    """Compile and link both DLLs into ``out``."""
    ours = set(re.findall(r"\bWSAAPI hv_(\w+)\(", (HERE / "ws2_32.c").read_text()))
    exported = exports(wine_ws2_32)
    header, assembly = stubs([name for name, _ in exported])
    lines = [f"  {name}={'hv' if name in ours else 'stub'}_{name} @{ordinal}\n" for name, ordinal in exported]
    cc = [CROSS + "gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-static-libgcc"]
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        (tmp / "exports.h").write_text(header)
        (tmp / "exports.S").write_text(assembly)
        (tmp / "ws2_32.def").write_text("LIBRARY ws2_32.dll\nEXPORTS\n" + "".join(lines))
        sources = [HERE / "ws2_32.c", tmp / "exports.S", tmp / "ws2_32.def"]
        subprocess.run([*cc, f"-I{tmp}", "-o", out / "ws2_32.dll", *sources, "-ladvapi32"], check=True)
    source = HERE / "bcryptprimitives.c"
    subprocess.run([*cc, "-o", out / "bcryptprimitives.dll", source, "-ladvapi32"], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
