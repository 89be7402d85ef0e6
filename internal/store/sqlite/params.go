package sqlite

import (
	"strconv"
	"strings"
)

// positional writes a query with the parameters $1, $2 and so on with question marks, and gives the numbers of its
// parameters in the order of their appearance: SQLite looks a parameter with a name up anew for every value that is
// bound. A query with parameters of any other form is left alone; its order is nil.
func positional(query string) (_ string, order []int) {
	var out strings.Builder
	for i := 0; i < len(query); {
		end := i + 1
		switch c := query[i]; {
		case c == '\'' || c == '"' || c == '`':
			end = behind(query, i+1, string(c))
		case strings.HasPrefix(query[i:], "/*"):
			end = behind(query, i+2, "*/")
		case strings.HasPrefix(query[i:], "--"):
			end = behind(query, i+2, "\n")
		case c == '?' || c == ':' || c == '@' || c == '[':
			return query, nil
		case c == '$':
			for end < len(query) && query[end] >= '0' && query[end] <= '9' {
				end++
			}
			n, err := strconv.Atoi(query[i+1 : end])
			if err != nil || n == 0 {
				return query, nil
			}
			order = append(order, n)
			out.WriteByte('?')
			i = end
			continue
		}
		out.WriteString(query[i:end])
		i = end
	}
	return out.String(), order
}

// behind is where query goes on after the next end mark.
func behind(query string, from int, end string) int {
	if n := strings.Index(query[from:], end); n >= 0 {
		return from + n + len(end)
	}
	return len(query)
}

// arrange puts args into the order of their appearance.
func arrange(order []int, args []any) ([]any, error) {
	highest, sorted := 0, len(order) == len(args)
	for i, n := range order {
		highest, sorted = max(highest, n), sorted && n == i+1
	}
	switch {
	case highest != len(args):
		return nil, errArguments
	case sorted:
		return args, nil
	}
	out := make([]any, len(order))
	for i, n := range order {
		out[i] = args[n-1]
	}
	return out, nil
}
