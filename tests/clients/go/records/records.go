// Package records makes the records that both Go programs write and expect back: the same as
// ../python/records.py makes.
package records

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"
)

// Count is the number of records of one topic; record i goes to partition i % Partitions.
const Count = 10_000

// Partitions of every topic.
const Partitions = 3

// StepMs lies between the timestamps of two neighbours.
const StepMs = 10

// Deadline is longer than any correct run on a busy machine.
const Deadline = 60 * time.Second

// Codecs are Kafka's names for them.
var Codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// Header is one header; a nil value is null.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record as it was meant and as it must come back.
type Record struct {
	Partition   int32
	Offset      int64
	TimestampMs int64
	Key, Value  []byte
	Headers     []Header
}

// BaseMs keeps every timestamp in the near past: within any retention, not in the future.
func BaseMs() int64 {
	return time.Now().UnixMilli() - 2*Count*StepMs
}

// All makes every record, in the order of production.
func All(base int64, codec string) []Record {
	all := make([]Record, 0, Count)
	for i := int64(0); i < Count; i++ {
		r := Record{
			Partition:   int32(i % Partitions),
			Offset:      i / Partitions,
			TimestampMs: base + i*StepMs,
			Key:         fmt.Appendf(nil, "key-%d", i),
			Value:       fmt.Appendf(nil, "%s-%d-%s", codec, i, strings.Repeat("x", int(i%200))),
			Headers: []Header{
				{"n", fmt.Appendf(nil, "%d", i)}, {"d", []byte("1")}, {"d", []byte("2")}, {"empty", []byte{}}, {"null", nil},
			},
		}
		switch i % 1000 {
		case 0:
			r.Key = nil
		case 1:
			r.Value = nil
		case 2:
			r.Value = []byte{}
		}
		all = append(all, r)
	}
	return all
}

// Middle is a time between two records, and for each partition the offset it must be answered with.
func Middle(base int64) (int64, [Partitions]int64) {
	var offsets [Partitions]int64
	for i := int64(Count/2 + 1); i <= Count/2+Partitions; i++ {
		offsets[i%Partitions] = i / Partitions
	}
	return base + Count/2*StepMs + 1, offsets
}

// From keeps those of `all` that are at or after the offsets of their partitions.
func From(all []Record, offsets [Partitions]int64) []Record {
	var kept []Record
	for _, r := range all {
		if r.Offset >= offsets[r.Partition] {
			kept = append(kept, r)
		}
	}
	return kept
}

func same(a, b []byte) bool {
	return (a == nil) == (b == nil) && bytes.Equal(a, b)
}

// Compare compares every field of every record, in each partition's order.
func Compare(wanted, got []Record) error {
	for _, set := range [][]Record{wanted, got} {
		sort.SliceStable(set, func(i, j int) bool { return set[i].Partition < set[j].Partition })
	}
	if len(wanted) != len(got) {
		return fmt.Errorf("wanted %d records, got %d", len(wanted), len(got))
	}
	for i, w := range wanted {
		g := got[i]
		equal := w.Partition == g.Partition && w.Offset == g.Offset && w.TimestampMs == g.TimestampMs &&
			same(w.Key, g.Key) && same(w.Value, g.Value) && len(w.Headers) == len(g.Headers)
		for h := 0; equal && h < len(w.Headers); h++ {
			equal = w.Headers[h].Key == g.Headers[h].Key && same(w.Headers[h].Value, g.Headers[h].Value)
		}
		if !equal {
			return fmt.Errorf("wanted %+v, got %+v", w, g)
		}
	}
	return nil
}

// TopicName is a name no other run uses.
func TopicName(client, codec string) string {
	return fmt.Sprintf("clients-%s-%s-%d", client, codec, time.Now().UnixNano())
}

// Report prints the program's one line; the exit code says the same.
func Report(client, version string, err error) {
	if err != nil {
		text := strings.Join(strings.Fields(err.Error()), " ")
		fmt.Printf("%s %s: FAIL %.600s\n", client, version, text)
		os.Exit(1)
	}
	fmt.Printf("%s %s: PASS\n", client, version)
}
