package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay"
)

// Headers of an atomic batch (NATS ADR-50).
const (
	batchID     = "Nats-Batch-Id"
	batchSeq    = "Nats-Batch-Sequence"
	batchCommit = "Nats-Batch-Commit"
)

var errBatchAnswer = errors.New("the answer to a batch is of another one")

// publishBatch sends all messages as one atomic batch, of all logs together: one sync of the disk for all. The server
// takes it only if every log is where it was expected. It keeps what comes before the last message aside, and says
// nothing of it until then.
func (b *Broker) publishBatch(ctx context.Context, round []outgoing, known map[mainstay.TopicLane]int64) error {
	if len(round) < 2 {
		_, err := b.publishWindow(ctx, round, known, false)
		return err
	}
	b.batches++
	id := b.name + strconv.FormatInt(b.batches, 36)
	for i, o := range round {
		msg := b.encode(o)
		if o.previous < 0 {
			b.expect(o.log, known)
		}
		b.records.set(batchID, id)
		b.records.set(batchSeq, strconv.Itoa(i+1))
		if i < len(round)-1 {
			if err := b.nc.PublishMsg(msg); err != nil {
				return fmt.Errorf("sending message %d of a batch: %w", i+1, refused(o, err))
			}
			continue
		}
		b.records.set(batchCommit, "1")
		answer, err := b.nc.RequestMsgWithContext(ctx, msg)
		if err != nil {
			return fmt.Errorf("committing a batch: %w", refused(o, err))
		}
		return b.batchStored(answer.Data, id, round, known)
	}
	return nil
}

// batchStored reads the answer to a batch, and keeps where its messages are.
func (b *Broker) batchStored(answer []byte, id string, round []outgoing, known map[mainstay.TopicLane]int64) error {
	var ack struct {
		Error    *jetstream.APIError `json:"error"`
		Sequence uint64              `json:"seq"`
		ID       string              `json:"batch"`
		Count    int                 `json:"count"`
	}
	if err := json.Unmarshal(answer, &ack); err != nil {
		return fmt.Errorf("reading the answer to a batch: %w", err)
	}
	if ack.Error != nil {
		return ack.Error
	}
	if ack.ID != id || ack.Count != len(round) {
		return errBatchAnswer
	}
	b.chain.last = ack.Sequence
	for i, o := range round {
		known[o.log] = int64(ack.Sequence) - int64(len(round)-1-i) //nolint:gosec // sequences stay far below 2^63
	}
	return nil
}
