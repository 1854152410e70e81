// kafkajs: idempotent produce with every codec, fetch without a group, offsets by time.
//
// The public consumer of kafkajs always joins a group. To consume by assignment this program drives
// the layer below it (cluster and broker), which is what the consumer itself fetches and decodes with.
// The records are those of ../python/records.py, less the header with a null value: kafkajs has none.
'use strict'

const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const Cluster = require('kafkajs/src/cluster')
const socketFactory = require('kafkajs/src/network/socketFactory')
const { version } = require('kafkajs/package.json')
const snappy = require('kafkajs-snappy')
const lz4 = require('lz4js')
const xxh32 = require('lz4js/xxh32')
const zstd = require('@bokuweb/zstd-wasm')

const COUNT = 10_000
const PARTITIONS = 3
const STEP_MS = 10
const DEADLINE_MS = 60_000
const PRODUCE_AT_ONCE = 1_000
const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}

// lz4js marks its frames as made of dependent blocks, which Kafka refuses. A batch here fits in one
// block of 4 MiB, which depends on nothing: say so, and sign the frame's header again.
function lz4Frame(buffer) {
  const frame = Buffer.from(lz4.compress(buffer))
  frame[4] |= 0x20
  frame[6] = (xxh32.hash(0, frame, 4, 2) >> 8) & 0xff
  return frame
}

// kafkajs brings gzip and leaves the others to plug-ins of this shape.
CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => lz4Frame(encoder.buffer),
  decompress: async buffer => Buffer.from(lz4.decompress(buffer)),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async buffer => Buffer.from(zstd.decompress(buffer)),
})

function record(index, base, codec) {
  const value = { 1: null, 2: '' }[index % 1000]
  return {
    partition: index % PARTITIONS,
    offset: String(Math.floor(index / PARTITIONS)),
    timestamp: String(base + index * STEP_MS),
    key: index % 1000 === 0 ? null : `key-${index}`,
    value: value === undefined ? `${codec}-${index}-${'x'.repeat(index % 200)}` : value,
    headers: { n: String(index), d: ['1', '2'], empty: '' },
  }
}

function equal(what, wanted, got) {
  const [left, right] = [JSON.stringify(wanted), JSON.stringify(got)]
  if (left !== right) throw new Error(`${what}: wanted ${left}, got ${right}`)
}

function compare(wanted, got) {
  for (let partition = 0; partition < PARTITIONS; partition++) {
    const [left, right] = [wanted, got].map(set => set.filter(r => r.partition === partition))
    for (let i = 0; i < Math.min(left.length, right.length); i++) equal('record', left[i], right[i])
    equal(`records of partition ${partition}`, left.length, right.length)
  }
}

const text = bytes => (bytes === null || bytes === undefined ? null : bytes.toString())
const header = value => (Array.isArray(value) ? value.map(text) : text(value))

function taken(partition, message) {
  const headers = {}
  for (const [key, value] of Object.entries(message.headers)) headers[key] = header(value)
  return {
    partition,
    offset: message.offset,
    timestamp: message.timestamp,
    key: text(message.key),
    value: text(message.value),
    headers,
  }
}

async function produce(kafka, topic, codec, all) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, createPartitioner: () => ({ message }) => message.partition })
  await producer.connect()
  try {
    for (let at = 0; at < all.length; at += PRODUCE_AT_ONCE) {
      const part = all.slice(at, at + PRODUCE_AT_ONCE)
      const messages = part.map(({ offset, ...message }) => message)
      const answers = await producer.send({ topic, acks: -1, compression: CODECS[codec], messages })
      for (const { partition, baseOffset, errorCode } of answers) {
        equal('error of Produce', 0, errorCode)
        equal('base offset', part.find(r => r.partition === partition).offset, baseOffset)
      }
    }
  } finally {
    await producer.disconnect()
  }
}

// All records from `offsets` (one a partition) on, until as many came as are wanted.
async function consume(cluster, topic, offsets, count) {
  await cluster.addTargetTopic(topic)
  const leaders = cluster.findLeaderForPartitions(topic, [...offsets.keys()])
  const next = offsets.map(BigInt)
  const got = []
  for (const deadline = Date.now() + DEADLINE_MS; got.length < count && Date.now() < deadline; ) {
    for (const [nodeId, partitions] of Object.entries(leaders)) {
      const broker = await cluster.findBroker({ nodeId })
      const asked = partitions.map(p => ({ partition: p, fetchOffset: String(next[p]), maxBytes: 1 << 20 }))
      const { responses } = await broker.fetch({
        maxWaitTime: 100,
        minBytes: 1,
        maxBytes: 10 << 20,
        isolationLevel: 0,
        topics: [{ topic, partitions: asked }],
      })
      for (const { partition, errorCode, messages } of responses.flatMap(r => r.partitions)) {
        equal('error of Fetch', 0, errorCode)
        for (const message of messages) {
          // A batch is fetched whole: it may begin before the offset that was asked for.
          if (BigInt(message.offset) < next[partition]) continue
          got.push(taken(partition, message))
          next[partition] = BigInt(message.offset) + 1n
        }
      }
    }
  }
  return got
}

async function roundTrip(kafka, bootstrap, codec) {
  const base = Date.now() - 2 * COUNT * STEP_MS
  const topic = `clients-kafkajs-${codec}-${process.hrtime.bigint()}`
  const all = Array.from({ length: COUNT }, (_, index) => record(index, base, codec))
  const admin = kafka.admin()
  await admin.connect()
  const cluster = new Cluster({
    logger: kafka.logger(),
    socketFactory: socketFactory(),
    brokers: [bootstrap],
    clientId: 'clients',
    connectionTimeout: 5_000,
    authenticationTimeout: 5_000,
    requestTimeout: DEADLINE_MS,
    metadataMaxAge: 300_000,
    retry: {},
    allowAutoTopicCreation: false,
    isolationLevel: 0,
  })
  try {
    equal('CreateTopics', true, await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS, replicationFactor: 1 }] }))
    await produce(kafka, topic, codec, all)
    await cluster.connect()
    compare(all, await consume(cluster, topic, Array(PARTITIONS).fill('0'), COUNT))

    const when = base + (COUNT / 2) * STEP_MS + 1
    const middle = []
    for (let i = COUNT / 2 + 1; i <= COUNT / 2 + PARTITIONS; i++) middle[i % PARTITIONS] = String(Math.floor(i / PARTITIONS))
    const found = await admin.fetchTopicOffsetsByTimestamp(topic, when)
    equal('offsets by timestamp', middle, found.sort((a, b) => a.partition - b.partition).map(at => at.offset))
    const later = all.filter(r => Number(r.offset) >= Number(middle[r.partition]))
    compare(later, await consume(cluster, topic, middle, later.length))

    await admin.deleteTopics({ topics: [topic] })
    for (const deadline = Date.now() + 10_000; (await admin.listTopics()).includes(topic); ) {
      if (Date.now() > deadline) throw new Error('the deleted topic is still listed')
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  } finally {
    await cluster.disconnect()
    await admin.disconnect()
  }
}

async function main(bootstrap) {
  await zstd.init()
  const kafka = new Kafka({ clientId: 'clients', brokers: [bootstrap], logLevel: logLevel.NOTHING })
  for (const codec of Object.keys(CODECS)) await roundTrip(kafka, bootstrap, codec)
}

main(process.argv[2]).then(
  () => console.log(`kafkajs ${version}: PASS`),
  error => {
    console.log(`kafkajs ${version}: FAIL ${String(error).replace(/\s+/g, ' ').slice(0, 600)}`)
    process.exitCode = 1
  }
)
