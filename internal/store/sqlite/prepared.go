package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"
)

// maxRows is the most rows of one insert. A statement is prepared for every power of two up to it, when it is needed.
const maxRows = 32

// errArguments says that a query and its arguments do not fit together.
var errArguments = errors.New("the arguments are not those of the parameters")

// prepared is a query of the program, in the form that is fastest to run again and again.
type prepared struct {
	order  []int             // of the arguments, by appearance; nil: as they are
	insert *insert           // nil: each row is a statement of its own
	byRows map[int]*sql.Stmt // by the number of rows of an insert; else 1
	query  string
}

// prepare gives what is known of a query text; texts are constants of the program, so there are few.
func (w *writer) prepare(query string) *prepared {
	p := w.statements[query]
	if p == nil {
		p = &prepared{byRows: map[int]*sql.Stmt{}}
		p.query, p.order = positional(query)
		if p.order != nil {
			p.insert = parseInsert(p.query)
		}
		w.statements[query] = p
	}
	return p
}

// args are the arguments of one row as the statement takes them.
func (p *prepared) args(args []any) ([]any, error) {
	if p.order == nil {
		return args, nil
	}
	args, ok := arrange(p.order, args)
	if !ok {
		return nil, errArguments
	}
	return args, nil
}

// stmt is the statement for so many rows; more than one is for inserts.
func (w *writer) stmt(ctx context.Context, p *prepared, rows int) (*sql.Stmt, error) {
	if st := p.byRows[rows]; st != nil {
		return st, nil
	}
	query := p.query
	if rows > 1 {
		query = p.insert.rows(rows)
	}
	st, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	p.byRows[rows] = st
	return st, nil
}

// statement gives the statement of a query, and its arguments as it takes them.
func (w *writer) statement(ctx context.Context, query string, args []any) (*sql.Stmt, []any, error) {
	p := w.prepare(query)
	args, err := p.args(args)
	if err != nil {
		return nil, nil, err
	}
	st, err := w.stmt(ctx, p, 1)
	return st, args, err
}

// merge says how many of the first queued statements one statement can do, and gives it with its arguments.
func (w *writer) merge(ctx context.Context, queued []statement) (*sql.Stmt, []any, int, error) {
	first := queued[0]
	p, rows := w.prepare(first.sql), 1
	if p.insert != nil {
		run := 1
		for run < min(len(queued), maxRows) && queued[run].sql == first.sql {
			run++
		}
		for 2*rows <= run {
			rows *= 2
		}
	}
	args, err := p.args(first.args)
	if rows > 1 && err == nil {
		all := make([]any, 0, rows*len(p.order))
		for _, q := range queued[:rows] {
			if args, err = p.args(q.args); err != nil {
				break
			}
			all = append(all, args...)
		}
		args = all
	}
	if err != nil {
		return nil, nil, 0, err
	}
	st, err := w.stmt(ctx, p, rows)
	return st, args, rows, err
}

// insert is an insert of one row that can be written for many rows.
type insert struct {
	head string // up to the first row
	row  string // "(...)"
}

// parseInsert takes apart a positional query; nil for anything else than an insert of one row of parameters and
// constants: one with a conflict clause or an expression may see the rows before it.
func parseInsert(query string) *insert {
	const values = "values ("
	at := strings.LastIndex(query, values)
	if at < 0 || !strings.Contains(query, "insert into ") || !strings.HasSuffix(query, ")") {
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
	return &insert{head: query[:at-1], row: query[at-1:]}
}

// rows is the query for n rows.
func (in *insert) rows(n int) string { return in.head + in.row + strings.Repeat(", "+in.row, n-1) }
