# Reads archives from stdin, each behind its length, and prints what tarfile makes of them.
import io, struct, sys, tarfile, zlib

def hexed(text):
    return text.encode("utf-8", "surrogateescape").hex()

out = sys.stdout
while True:
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        break
    data = sys.stdin.buffer.read(struct.unpack(">I", head)[0])
    error = ""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as t:
            for m in t:
                kind = ord(m.type)
                crc = "-"
                if m.isreg():
                    kind = ord("0")
                    content = t.extractfile(m).read()
                    if len(content) != m.size:
                        raise EOFError("short data")
                    crc = zlib.crc32(content)
                mode = m.mode & 0o7777
                print("E", kind, hexed(m.name) or "-", mode, m.uid, m.gid, m.size, repr(m.mtime), "-",
                      hexed(m.linkname) or "-", crc, "?", sep="\t", file=out)
    except Exception as e:
        error = (type(e).__name__ + ": " + str(e)).encode("unicode_escape").decode()
    print(".", error, sep="\t", file=out)
