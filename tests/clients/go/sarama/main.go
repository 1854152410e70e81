// sarama: idempotent produce with every codec, partition consumers, start by time.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/IBM/sarama"

	"streambus/clients/records"
)

var codecs = map[string]sarama.CompressionCodec{
	"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
	"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

func configuration(codec string) *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.V4_0_0_0
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1 // sarama asks for it with idempotence
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Compression = codecs[codec]
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Flush.Messages = 500
	config.Producer.Flush.Frequency = 5 * time.Millisecond
	config.Consumer.Return.Errors = true
	config.Consumer.MaxWaitTime = 100 * time.Millisecond
	return config
}

func produce(client sarama.Client, topic string, all []records.Record) error {
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		return err
	}
	defer producer.Close()
	messages := make([]*sarama.ProducerMessage, len(all))
	for i, r := range all {
		message := &sarama.ProducerMessage{Topic: topic, Partition: r.Partition, Timestamp: time.UnixMilli(r.TimestampMs)}
		// A nil []byte in the Encoder interface would be an empty value, not null.
		if r.Key != nil {
			message.Key = sarama.ByteEncoder(r.Key)
		}
		if r.Value != nil {
			message.Value = sarama.ByteEncoder(r.Value)
		}
		for _, h := range r.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
		}
		messages[i] = message
	}
	if err := producer.SendMessages(messages); err != nil {
		return err
	}
	for i, m := range messages {
		if m.Partition != all[i].Partition || m.Offset != all[i].Offset {
			return fmt.Errorf("record %d was reported at %d/%d", i, m.Partition, m.Offset)
		}
	}
	return nil
}

// consume reads what `wanted` holds, each partition from its offset.
func consume(client sarama.Client, topic string, offsets [records.Partitions]int64, wanted []records.Record) ([]records.Record, error) {
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	var got []records.Record
	deadline := time.After(records.Deadline)
	for p, offset := range offsets {
		count := 0
		for _, r := range wanted {
			if r.Partition == int32(p) {
				count++
			}
		}
		partition, err := consumer.ConsumePartition(topic, int32(p), offset)
		if err != nil {
			return nil, err
		}
		for ; count > 0; count-- {
			select {
			case m := <-partition.Messages():
				got = append(got, taken(m))
			case err := <-partition.Errors():
				return nil, err
			case <-deadline:
				return nil, fmt.Errorf("partition %d: %d records never came", p, count)
			}
		}
		if err := partition.Close(); err != nil {
			return nil, err
		}
	}
	return got, nil
}

func taken(m *sarama.ConsumerMessage) records.Record {
	record := records.Record{Partition: m.Partition, Offset: m.Offset, TimestampMs: m.Timestamp.UnixMilli(),
		Key: m.Key, Value: m.Value}
	for _, h := range m.Headers {
		record.Headers = append(record.Headers, records.Header{Key: string(h.Key), Value: h.Value})
	}
	return record
}

func roundTrip(bootstrap, codec string) error {
	client, err := sarama.NewClient([]string{bootstrap}, configuration(codec))
	if err != nil {
		return err
	}
	defer client.Close()
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		return err
	}
	topic, base := records.TopicName("sarama", codec), records.BaseMs()
	if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: records.Partitions, ReplicationFactor: 1}, false); err != nil {
		return err
	}
	all := records.All(base, codec)
	if err := produce(client, topic, all); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	var beginning [records.Partitions]int64
	got, err := consume(client, topic, beginning, all)
	if err == nil {
		err = records.Compare(all, got)
	}
	if err != nil {
		return fmt.Errorf("from the beginning: %w", err)
	}

	when, offsets := records.Middle(base)
	for p, want := range offsets {
		if at, err := client.GetOffset(topic, int32(p), when); err != nil || at != want {
			return fmt.Errorf("partition %d at time %d: wanted offset %d, got %d, %w", p, when, want, at, err)
		}
	}
	later := records.From(all, offsets)
	got, err = consume(client, topic, offsets, later)
	if err == nil {
		err = records.Compare(later, got)
	}
	if err != nil {
		return fmt.Errorf("from a time: %w", err)
	}
	return deleteTopic(admin, topic)
}

func deleteTopic(admin sarama.ClusterAdmin, topic string) error {
	if err := admin.DeleteTopic(topic); err != nil {
		return err
	}
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		listed, err := admin.ListTopics()
		if err != nil {
			return err
		}
		if _, found := listed[topic]; !found {
			return nil
		}
	}
	return errors.New("the deleted topic is still listed")
}

func run(bootstrap string) error {
	for _, codec := range records.Codecs {
		if err := roundTrip(bootstrap, codec); err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
	}
	return nil
}

func main() {
	records.Report("sarama", records.Version("github.com/IBM/sarama"), run(os.Args[1]))
}
