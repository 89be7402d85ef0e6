package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
)

// maxRows is the most rows of one insert. A statement is prepared for every power of two up to it, when it is needed.
const maxRows = 32

// errArguments says that a query and its arguments do not fit together.
var errArguments = errors.New("the arguments are not those of the parameters")

// prepared is a query of the program, in the form that is fastest to run again and again.
type prepared struct {
	query  string
	order  []int               // of the arguments, by appearance; nil: as they are
	insert *insert             // nil: each row is a statement of its own
	stmt   *sql.Stmt           // for whoever waits for the outcome; nil until somebody does
	direct map[int]driver.Stmt // for what is queued, by the number of rows
}

// prepare gives what is known of a query text; texts are constants of the program, so there are few.
func (w *writer) prepare(query string) *prepared {
	p := w.statements[query]
	if p == nil {
		p = &prepared{direct: map[int]driver.Stmt{}}
		p.query, p.order = positional(query)
		if p.order != nil {
			p.insert = parseInsert(p.query)
		}
		w.statements[query] = p
	}
	return p
}

// statement gives the statement of a query, and its arguments as it takes them.
func (w *writer) statement(ctx context.Context, query string, args []any) (_ *sql.Stmt, _ []any, err error) {
	p := w.prepare(query)
	if p.order != nil {
		if args, err = arrange(p.order, args); err != nil {
			return nil, nil, err
		}
	}
	if p.stmt == nil {
		if p.stmt, err = w.conn.PrepareContext(ctx, p.query); err != nil {
			return nil, nil, err
		}
	}
	return p.stmt, args, nil
}

// runQueued runs the first queued statement, and those behind it that can be merged with it, on the driver's own
// connection: nothing is converted, locked or allocated for them that need not be.
func (w *writer) runQueued(conn any, queued []statement) (changed int64, merged int, err error) {
	p := w.prepare(queued[0].sql)
	rows := p.mergeable(queued)
	st, err := p.directStmt(conn, rows)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		clear(w.values)
		w.values = w.values[:0]
	}()
	for _, q := range queued[:rows] {
		if err := w.bind(p.order, q.args); err != nil {
			return 0, 0, err
		}
	}
	exec, ok := st.(driver.StmtExecContext)
	if !ok {
		return 0, 0, errDriver
	}
	result, err := exec.ExecContext(context.Background(), w.values)
	if err != nil {
		return 0, 0, err
	}
	changed, err = result.RowsAffected()
	return changed, rows, err
}

// mergeable is how many of the first queued statements one statement can do: a power of two.
func (p *prepared) mergeable(queued []statement) int {
	run, rows := 1, 1
	for p.insert != nil && run < min(len(queued), maxRows) && queued[run].sql == queued[0].sql {
		run++
	}
	for 2*rows <= run {
		rows *= 2
	}
	return rows
}

var errDriver = errors.New("the driver of SQLite is another one than expected")

func (p *prepared) directStmt(conn any, rows int) (driver.Stmt, error) {
	if st := p.direct[rows]; st != nil {
		return st, nil
	}
	preparer, ok := conn.(driver.ConnPrepareContext)
	if !ok {
		return nil, errDriver
	}
	query := p.query
	if rows > 1 {
		query = p.insert.rows(rows)
	}
	st, err := preparer.PrepareContext(context.Background(), query)
	if err == nil {
		p.direct[rows] = st
	}
	return st, err
}

// bind appends the arguments of one statement to those that are bound next.
func (w *writer) bind(order []int, args []any) (err error) {
	if order != nil {
		if args, err = arrange(order, args); err != nil {
			return err
		}
	}
	for _, arg := range args {
		v := driver.NamedValue{Ordinal: len(w.values) + 1, Value: arg}
		switch arg := arg.(type) {
		case string, int64, []byte, nil:
		case int:
			v.Value = int64(arg)
		default:
			if v.Value, err = driver.DefaultParameterConverter.ConvertValue(arg); err != nil {
				return fmt.Errorf("argument %d: %w", v.Ordinal, err)
			}
		}
		w.values = append(w.values, v)
	}
	return nil
}

// close gives the connection back, with all that was prepared on it.
func (w *writer) close() {
	_ = w.conn.Raw(func(any) error {
		for _, p := range w.statements {
			for _, st := range p.direct {
				_ = st.Close() // the connection is closed next
			}
		}
		return nil
	})
	_ = w.conn.Close()
}

// insert is an insert of one row that can be written for many rows.
type insert struct {
	head string // up to the first row, for more than one
	row  string // "(...)"
}

// parseInsert takes apart a positional query; nil for anything else than an insert of one row of parameters and
// constants: one with a conflict clause or an expression may see the rows before it.
func parseInsert(query string) *insert {
	const into, values = "insert into ", "values ("
	at := strings.LastIndex(query, values)
	if at < 0 || strings.Count(query, into) != 1 || !strings.HasSuffix(query, ")") {
		return nil
	}
	at += len(values)
	for item := range strings.SplitSeq(query[at:len(query)-1], ",") {
		item = strings.TrimSpace(item)
		literal := len(item) > 1 && item[0] == '\'' && item[len(item)-1] == '\'' && strings.Count(item, "'") == 2
		if item != "?" && !literal {
			return nil
		}
	}
	return &insert{head: strings.Replace(query[:at-1], into, "insert or fail into ", 1), row: query[at-1:]}
}

// rows is the query for n rows. When one of them fails, those before it stay: the unit is rolled back anyway, and SQLite
// need not keep a copy of every page for the statement alone.
func (in *insert) rows(n int) string { return in.head + in.row + strings.Repeat(", "+in.row, n-1) }
