package verify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// line is what a client noted about one answer; an answer that never came has status 0.
type line struct {
	Key     string `json:"key"`
	Status  int    `json:"status"`
	OrderID string `json:"order_id"`
}

const (
	makeJournal = `create temporary table verify_journal (key text not null, status bigint not null, order_id text not null)`
	// addLines takes lines as three JSON arrays of the same length.
	addLinesSQLite = `/* verify.journal_add */
insert into verify_journal (key, status, order_id)
select value->>'key', value->>'status', coalesce(value->>'order_id', '') from json_each($1)`
	addLinesPostgres = `/* verify.journal_add */
insert into verify_journal (key, status, order_id)
select value->>'key', (value->>'status')::bigint, coalesce(value->>'order_id', '') from jsonb_array_elements($1::jsonb)`
	journalLines = 1000 // in one statement
)

// loadJournal copies the journal into a temporary table, so that its size does not matter. A torn last line, which a
// client that was killed leaves behind, is left out.
func (s *session) loadJournal(ctx context.Context) error {
	if _, err := s.conn.ExecContext(ctx, makeJournal); err != nil {
		return fmt.Errorf("making room for the journal: %w", err)
	}
	r := bufio.NewReader(s.o.Journal)
	var batch []line
	for n, last := 1, false; !last; n++ {
		var text string
		var err error
		if text, last, err = readLine(r); err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrJournal, n, err)
		}
		l, err := decodeLine(text)
		if err != nil && !last {
			return fmt.Errorf("%w: line %d: %w", ErrJournal, n, err)
		}
		if err == nil && l.Key != "" {
			batch = append(batch, l)
		}
		if last || len(batch) == journalLines {
			if err := s.addLines(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}

// readLine reads up to the next line's end; the last line is what comes after it, often nothing.
func readLine(r *bufio.Reader) (text string, last bool, err error) {
	text, err = r.ReadString('\n')
	if errors.Is(err, io.EOF) {
		return text, true, nil
	}
	return text, false, err
}

// decodeLine reads a line; an empty one has no key.
func decodeLine(text string) (line, error) {
	var l line
	if strings.TrimSpace(text) == "" {
		return l, nil
	}
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return l, err
	}
	if l.Key == "" {
		return l, errors.New("it has no key")
	}
	return l, nil
}

func (s *session) addLines(ctx context.Context, lines []line) error {
	if len(lines) == 0 {
		return nil
	}
	text, err := json.Marshal(lines)
	if err != nil {
		return err
	}
	query := addLinesPostgres
	if s.sqlite() {
		query = addLinesSQLite
	}
	if _, err := s.conn.ExecContext(ctx, query, string(text)); err != nil {
		return fmt.Errorf("storing the journal: %w", err)
	}
	return nil
}

// journal: what a client was answered is what is here.
func journal(complete bool) check {
	c := check{
		name:    "journal",
		summary: "%d {answer|answers} to %d {key|keys}, %d of them 2xx, each with its order; %d {order is|orders are} not in the journal",
		count: `/* verify.journal */
select count(*), count(distinct key), coalesce(sum(case when status between 200 and 299 then 1 else 0 end), 0),
    (select count(*) from orders o left join (select distinct order_id from verify_journal) j on j.order_id = o.id::text where j.order_id is null)
from verify_journal`,
		rules: []string{
			`/* verify.journal_lost */
select j.order_id, 'was answered ' || max(j.status) || ' to key ' || j.key || ', and is not here'
from verify_journal j left join orders o on o.id::text = j.order_id
where j.status between 200 and 299 and o.id is null group by j.order_id, j.key`,
			`/* verify.journal_two_orders */
select key, 'the answers to this key name ' || count(distinct order_id) || ' orders'
from verify_journal where status between 200 and 299 group by key having count(distinct order_id) > 1`,
			`/* verify.journal_two_keys */
select order_id, 'the answers to ' || count(distinct key) || ' keys name this order'
from verify_journal where status between 200 and 299 group by order_id having count(distinct key) > 1`,
			`/* verify.journal_other_order */
select j.key, 'was answered with order ' || j.order_id || ', the record of the key has ' || (i.header->>'Location')
from verify_journal j join idempotency i on i.key = j.key and i.route = 'POST /v1/orders' join orders o on o.id::text = j.order_id
where j.status between 200 and 299 and i.header->>'Location' <> '/v1/orders/' || j.order_id and o.created_at > {kept}`,
			`/* verify.journal_refused */
select j.key, 'was refused each time, and the record of the key has ' || (i.header->>'Location')
from (select key from verify_journal group by key
    having sum(case when status between 400 and 499 and status not in (408, 409, 425, 429) then 0 else 1 end) = 0) j
join idempotency i on i.key = j.key and i.route = 'POST /v1/orders'`,
		},
	}
	if complete {
		c.rules = append(c.rules, "/* verify.journal_unknown */\n"+records+`select o.id::text, 'nobody has asked for this order'
from orders o left join record r on r.order_id = o.id::text
left join (select distinct key from verify_journal) k on k.key = r.key
left join (select distinct order_id from verify_journal) j on j.order_id = o.id::text
where k.key is null and j.order_id is null and (r.order_id is not null or o.created_at > {kept})`)
	}
	return c
}
