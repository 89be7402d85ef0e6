package verify

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
)

// Options say what to check. DB and Dialect are needed; the rest has defaults.
type Options struct {
	// DB is the database. One connection of it is used.
	DB      *sql.DB
	Dialect mainstay.Dialect
	// Others are further databases, of participants that have their own; PostgreSQL only.
	Others []*sql.DB
	// GatewayFile is the file of the payment gateway's store on SQLite. On PostgreSQL it is the schema sandbox of the
	// same database.
	GatewayFile string
	// Journal is a client's own record, JSON lines of key, status and order_id; nil for none. It is read to its end
	// before the database is.
	Journal io.Reader
	// JournalComplete says that there was no other client: an order that the journal does not know is a violation.
	JournalComplete bool
	// Retention is how long idempotency records are kept, 24 hours by default.
	Retention time.Duration
	// Grace is how long after its deadline an order that nobody works on counts as hanging, 2 minutes by default.
	Grace time.Duration
	// Limit is the most violations that a check names, and the most open orders, 20 by default; all are counted.
	Limit int
	Clock clock.Clock
}

// Violation is something that must not be.
type Violation struct {
	// Rule is the stable name of what is broken; Rules lists them.
	Rule string `json:"rule"`
	// ID names the offending row: an order's id wherever there is one.
	ID     string `json:"id"`
	Detail string `json:"detail"`
}

// Check is the result of one check.
type Check struct {
	Name string `json:"name"`
	// Count is how many things were looked at, Summary says in words which.
	Count   int64  `json:"count"`
	Summary string `json:"summary"`
	// Found is the number of violations, of which Violations names the first.
	Found      int64       `json:"found"`
	Violations []Violation `json:"violations"`
	// all are those, where a second reading is to find them again.
	all []Violation
	// Skipped says why nothing was checked, empty when it was.
	Skipped string `json:"skipped,omitempty"`
}

// Report is what was found.
type Report struct {
	Checks []Check `json:"checks"`
	Counts Counts  `json:"counts"`
	// Open names the oldest of the Counts.NeedsOperator orders, at most Options.Limit.
	Open []Open `json:"open"`
	// Elsewhere says that consumers read what another database writes, and that no other was given: what is missing
	// may be there.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// Found is the number of violations of all checks.
func (r *Report) Found() int64 {
	n := int64(0)
	for i := range r.Checks {
		n += r.Checks[i].Found
	}
	return n
}

// Errors of databases that cannot be checked.
var (
	// ErrNoSchema means that the database was never migrated.
	ErrNoSchema = errors.New("verify: the database has no schema")
	// ErrJournal means that the journal cannot be read.
	ErrJournal = errors.New("verify: reading the journal")
)

// Run makes all checks, one after the other. Violations are in the report; the error says that a check could not be
// made, as a *SchemaError that the schema is older or newer than the checks. It writes nothing to the database, but for a temporary table when there is a journal.
func Run(ctx context.Context, o Options) (Report, error) {
	o.Retention = cmp.Or(o.Retention, 24*time.Hour)
	o.Grace = cmp.Or(o.Grace, 2*time.Minute)
	o.Limit = cmp.Or(o.Limit, 20)
	if o.Clock == nil {
		o.Clock = clock.System
	}
	s, err := open(ctx, o)
	if err != nil {
		return Report{}, err
	}
	r, err := s.all(ctx)
	return r, errors.Join(err, s.close(ctx))
}

// all makes all checks; what several databases say together is read twice.
func (s *session) all(ctx context.Context) (Report, error) {
	if len(s.others) == 0 {
		return s.once(ctx)
	}
	if err := s.borrow(ctx); err != nil {
		return Report{}, err
	}
	r, err := s.once(ctx)
	if err != nil || r.Found() == 0 {
		return r, err
	}
	return s.again(ctx, r)
}

func (s *session) once(ctx context.Context) (Report, error) {
	var r Report
	cs := checks()
	if s.o.Journal != nil {
		cs = append(cs, journal(s.o.JournalComplete))
	}
	for _, c := range cs {
		done, err := s.check(ctx, c)
		if err != nil {
			return r, fmt.Errorf("checking %s: %w", c.name, err)
		}
		r.Checks = append(r.Checks, done)
	}
	var err error
	if r.Counts, r.Open, err = s.counts(ctx); err == nil && len(s.others) == 0 {
		err = s.conn.QueryRowContext(ctx, s.sql(elsewhereQuery)).Scan(&r.Elsewhere)
	}
	return r, err
}

const elsewhereQuery = `/* verify.elsewhere */ select exists (select 1 from place where elsewhere)`

// check is what one line of the report is made of.
type check struct {
	name string
	// summary is a format for the numbers that the query count gives in its one row; the first is the check's count.
	summary, count string
	rules          []string
	// gatewayFirst reads the gateway's store before the database; otherwise it is the other way round.
	gatewayFirst bool
	// skip gives the reason not to check, scan looks for what SQL cannot; both may be nil.
	skip func(s *session) string
	scan func(ctx context.Context, s *session, found finder) error
}

// finder takes a violation.
type finder func(rule, id, detail string)

// checks are the checks of a database, in the order in which an order passes through what they look at.
func checks() []check {
	return []check{
		acceptance(), outbox(), sequences(), places(), effects(), deadLetters(), ends(), sagas(),
		barrier(), stock(), money(), shipments(), gateway(), gatewayAccounts(),
	}
}

// Rules lists the names of everything that can be violated.
func Rules() []string {
	names := []string{ruleHistory, ruleState}
	for _, c := range append(checks(), journal(true)) {
		for _, rule := range c.rules {
			names = append(names, tag(rule))
		}
	}
	return names
}

// check makes one check in one snapshot. A rule is a query for violations, an id and a detail each.
func (s *session) check(ctx context.Context, c check) (Check, error) {
	out := Check{Name: c.name, Violations: []Violation{}}
	if c.skip != nil {
		if out.Skipped = c.skip(s); out.Skipped != "" {
			out.Summary = "not checked: " + out.Skipped
			return out, nil
		}
	}
	found := func(rule, id, detail string) {
		out.Found++
		if len(s.others) > 0 {
			out.all = append(out.all, Violation{rule, id, detail})
		}
		if len(out.Violations) < s.o.Limit {
			out.Violations = append(out.Violations, Violation{rule, id, detail})
		}
	}
	err := s.snapshot(ctx, c.gatewayFirst, func() error {
		numbers, err := s.numbers(ctx, c.count)
		if err != nil {
			return err
		}
		out.Count = numbers[0]
		out.Summary = sentence(c.summary, numbers)
		for _, rule := range c.rules {
			if err := s.violations(ctx, rule, found); err != nil {
				return err
			}
			if strings.Contains(rule, "{unnumbered}") {
				if err := s.unnumberedOthers(ctx, rule, found); err != nil {
					return err
				}
			}
		}
		if c.scan != nil {
			return c.scan(ctx, s, found)
		}
		return nil
	})
	return out, err
}

// sentence puts a number in the place of each %d. Words in braces are said of the number before them: "{order|orders}"
// is the first for one, else the second.
func sentence(format string, numbers []int64) string {
	var b strings.Builder
	text, rest, _ := strings.Cut(format, "%d")
	b.WriteString(text)
	for _, n := range numbers {
		text, rest, _ = strings.Cut(rest, "%d")
		b.WriteString(strconv.FormatInt(n, 10))
		for choice := true; choice; {
			var before, words string
			if before, words, choice = strings.Cut(text, "{"); !choice {
				break
			}
			words, text, _ = strings.Cut(words, "}")
			one, many, _ := strings.Cut(words, "|")
			if n != 1 {
				one = many
			}
			b.WriteString(before + one)
		}
		b.WriteString(text)
	}
	return b.String()
}
