// franz-go: idempotent produce with every codec, direct partition consuming, start by time.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"streambus/clients/records"
)

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func produce(ctx context.Context, bootstrap, topic, codec string, all []records.Record) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[codec]), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	sent := make([]*kgo.Record, len(all))
	for i, r := range all {
		record := &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value,
			Timestamp: time.UnixMilli(r.TimestampMs)}
		for _, h := range r.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		sent[i] = record
	}
	for i, result := range client.ProduceSync(ctx, sent...) {
		if result.Err != nil {
			return result.Err
		}
		if r := sent[i]; r.Partition != all[i].Partition || r.Offset != all[i].Offset {
			return fmt.Errorf("record %d was reported at %d/%d", i, r.Partition, r.Offset)
		}
	}
	return nil
}

// consume reads `count` records, each partition from what `start` says of it.
func consume(ctx context.Context, bootstrap, topic string, start func(int32) kgo.Offset, count int) ([]records.Record, error) {
	offsets := map[int32]kgo.Offset{}
	for p := int32(0); p < records.Partitions; p++ {
		offsets[p] = start(p)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var got []records.Record
	for len(got) < count {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("after %d of %d records: %w", len(got), count, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			record := records.Record{Partition: r.Partition, Offset: r.Offset, TimestampMs: r.Timestamp.UnixMilli(),
				Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				record.Headers = append(record.Headers, records.Header{Key: h.Key, Value: h.Value})
			}
			got = append(got, record)
		})
	}
	return got, nil
}

func roundTrip(ctx context.Context, admin *kadm.Client, bootstrap, codec string) error {
	topic, base := records.TopicName("franz", codec), records.BaseMs()
	if _, err := admin.CreateTopic(ctx, records.Partitions, 1, nil, topic); err != nil {
		return err
	}
	all := records.All(base, codec)
	if err := produce(ctx, bootstrap, topic, codec, all); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	got, err := consume(ctx, bootstrap, topic, func(int32) kgo.Offset { return kgo.NewOffset().AtStart() }, len(all))
	if err == nil {
		err = records.Compare(all, got)
	}
	if err != nil {
		return fmt.Errorf("from the beginning: %w", err)
	}

	when, offsets := records.Middle(base)
	listed, err := admin.ListOffsetsAfterMilli(ctx, when, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return err
	}
	for p, want := range offsets {
		if at, found := listed.Lookup(topic, int32(p)); !found || at.Offset != want {
			return fmt.Errorf("partition %d at time %d: wanted offset %d, got %+v", p, when, want, at)
		}
	}
	later := records.From(all, offsets)
	got, err = consume(ctx, bootstrap, topic, func(int32) kgo.Offset { return kgo.NewOffset().AfterMilli(when) }, len(later))
	if err == nil {
		err = records.Compare(later, got)
	}
	if err != nil {
		return fmt.Errorf("from a time: %w", err)
	}
	return deleteTopic(ctx, admin, topic)
}

func deleteTopic(ctx context.Context, admin *kadm.Client, topic string) error {
	if _, err := admin.DeleteTopic(ctx, topic); err != nil {
		return err
	}
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		listed, err := admin.ListTopics(ctx)
		if err != nil {
			return err
		}
		if !listed.Has(topic) {
			return nil
		}
	}
	return errors.New("the deleted topic is still listed")
}

func run(bootstrap string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	for _, codec := range records.Codecs {
		ctx, cancel := context.WithTimeout(context.Background(), records.Deadline)
		err := roundTrip(ctx, kadm.NewClient(client), bootstrap, codec)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
	}
	return nil
}

func main() {
	records.Report("franz-go", records.Version("github.com/twmb/franz-go"), run(os.Args[1]))
}
