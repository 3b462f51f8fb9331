// Reads archives from stdin, each behind its length, and prints what archive/tar makes of them.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
)

func hexed(text string) string {
	if text == "" {
		return "-"
	}
	return hex.EncodeToString([]byte(text))
}

func list(data []byte, out *bufio.Writer) error {
	t := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		sum, kind := crc32.NewIEEE(), h.Typeflag
		if kind == tar.TypeGNUSparse {
			kind = tar.TypeReg // Read with its holes filled.
		}
		if _, err := io.Copy(sum, t); err != nil {
			return err
		}
		if kind == tar.TypeRegA || kind == tar.TypeCont {
			kind = tar.TypeReg
		}
		attrs := ""
		for k, v := range h.PAXRecords {
			if key := strings.TrimPrefix(k, "SCHILY.xattr."); key != k {
				attrs += hexed(key) + "=" + hexed(v) + ","
			}
		}
		fmt.Fprintf(out, "E\t%d\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%d\t%s\n", kind, hexed(h.Name), h.Mode&07777, h.Uid, h.Gid,
			h.Size, h.ModTime.Unix(), h.ModTime.Nanosecond(), hexed(h.Linkname), sum.Sum32(), attrs)
	}
}

func main() {
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	defer out.Flush()
	var size uint32
	for binary.Read(in, binary.BigEndian, &size) == nil {
		data := make([]byte, size)
		if _, err := io.ReadFull(in, data); err != nil {
			panic(err)
		}
		err := list(data, out)
		text := ""
		if err != nil {
			text = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Fprintf(out, ".\t%s\n", text)
	}
}
