package postgres

import (
	"encoding/hex"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgtype"
)

// bytea is the type of that name, read in both forms that bytea_output has (PostgreSQL 8.4, "Binary
// Data Types"): it may be a default of the role, and a pooler lets no such setting through.
var bytea = &pgtype.Type{Name: "bytea", OID: pgtype.ByteaOID, Codec: byteaCodec{}}

type byteaCodec struct{ pgtype.ByteaCodec }

// PlanScan implements pgtype.Codec.
func (c byteaCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*[]byte); ok && format == pgtype.TextFormatCode {
		return scanBytea{}
	}
	return c.ByteaCodec.PlanScan(m, oid, format, target)
}

type scanBytea struct{}

// Scan implements pgtype.ScanPlan.
func (scanBytea) Scan(src []byte, target any) (err error) {
	into := target.(*[]byte)
	*into, err = decodeBytea(src)
	return err
}

var errBytea = errors.New("neither the hex nor the escape format of bytea") // never the value

// decodeBytea returns nil for NULL.
func decodeBytea(src []byte) ([]byte, error) {
	if src == nil {
		return nil, nil
	}
	if len(src) >= 2 && src[0] == '\\' && src[1] == 'x' {
		out := make([]byte, hex.DecodedLen(len(src)-2))
		if _, err := hex.Decode(out, src[2:]); err != nil {
			return nil, errBytea
		}
		return out, nil
	}
	out := make([]byte, 0, len(src))
	for i := 0; i < len(src); i++ {
		switch {
		case src[i] != '\\':
			out = append(out, src[i])
		case i+1 < len(src) && src[i+1] == '\\':
			out = append(out, '\\')
			i++
		case i+3 < len(src):
			octal, err := strconv.ParseUint(string(src[i+1:i+4]), 8, 8)
			if err != nil {
				return nil, errBytea
			}
			out = append(out, byte(octal))
			i += 3
		default:
			return nil, errBytea
		}
	}
	return out, nil
}
