package problem

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxDepth bounds how deep a body may be nested.
	maxDepth = 32
	// maxMistakes bounds how many mistakes are reported of one body.
	maxMistakes = 100
)

// Codes of mistakes that decoding finds; validation adds its own.
const (
	MistakeUnknown  = "unknown_field"
	MistakeType     = "wrong_type"
	MistakeRequired = "required"
	MistakeRange    = "out_of_range"
	MistakeFormat   = "wrong_format"
	MistakeSyntax   = "syntax"
)

// Mistakes collects what is wrong with a body. The zero value has none.
type Mistakes struct {
	list []Mistake
	more bool
}

// Add records a mistake, unless one was recorded at the same place before: a value of the wrong type is not also
// out of range.
func (m *Mistakes) Add(pointer, code, detail string) {
	for _, have := range m.list {
		if have.Pointer == pointer {
			return
		}
	}
	if len(m.list) == maxMistakes {
		m.more = true
		return
	}
	m.list = append(m.list, Mistake{Pointer: pointer, Code: code, Detail: detail})
}

// Within says whether a mistake was recorded at the place or inside it: what is derived from it need not be checked.
func (m *Mistakes) Within(pointer string) bool {
	for _, have := range m.list {
		if have.Pointer == pointer || strings.HasPrefix(have.Pointer, pointer+"/") {
			return true
		}
	}
	return false
}

// Problem reports all mistakes; nil when there are none.
func (m *Mistakes) Problem() *Problem {
	if len(m.list) == 0 {
		return nil
	}
	detail := fmt.Sprintf("%d mistakes", len(m.list))
	switch {
	case m.more:
		detail = fmt.Sprintf("more than %d mistakes", maxMistakes)
	case len(m.list) == 1:
		detail = strings.TrimPrefix(m.list[0].Pointer+": ", ": ") + m.list[0].Detail
	}
	p := New(InvalidBody, detail)
	p.Errors = m.list
	return p
}

// Decode reads body into the struct that into points to, by strict rules: UTF-8, no duplicate, unknown or
// case-variant members, nothing after the value, nested no deeper than 32. What breaks the grammar is a problem at
// once. Wrong types and unknown members are collected, and what is right is decoded nevertheless, so that
// validation can add its own mistakes. A member that is absent or null leaves its zero value; that it is required is
// for validation to say.
//
// The struct is made of structs, slices, strings, numbers, booleans and pointers to them, and jsontext.Value, with
// plain json tags.
func Decode(body []byte, into any) (Mistakes, *Problem) {
	if at := tooDeep(body); at >= 0 {
		return Mistakes{}, syntaxProblem("", fmt.Sprintf("nested deeper than %d at byte %d", maxDepth, at))
	}
	err := json.Unmarshal(body, into, json.RejectUnknownMembers(true))
	if err == nil {
		return Mistakes{}, nil
	}
	reflect.ValueOf(into).Elem().SetZero()
	return collect(body, reflect.ValueOf(into).Elem())
}

// collect decodes what Unmarshal has refused, for the sake of all its mistakes.
func collect(body []byte, into reflect.Value) (Mistakes, *Problem) {
	value := jsontext.Value(bytes.Clone(body))
	// Strict and over the whole, so that what follows may rely on the grammar.
	err := value.Compact(jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
	if err != nil {
		var syntax *jsontext.SyntacticError
		if errors.As(err, &syntax) {
			return Mistakes{}, syntaxProblem(string(syntax.JSONPointer), describe(syntax))
		}
		return Mistakes{}, syntaxProblem("", "not JSON")
	}
	var m Mistakes
	m.value("", value, into)
	return m, nil
}

func (m *Mistakes) value(pointer jsontext.Pointer, v jsontext.Value, into reflect.Value) {
	switch {
	case v.Kind() == 'n' || into.Type() == reflect.TypeFor[jsontext.Value]():
		_ = json.Unmarshal(v, into.Addr().Interface()) // anything fits
	case into.Kind() == reflect.Struct && v.Kind() == '{':
		m.object(pointer, v, into)
	case into.Kind() == reflect.Slice && v.Kind() == '[':
		m.array(pointer, v, into)
	case into.Kind() == reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		m.value(pointer, v, into.Elem())
	default:
		if err := json.Unmarshal(v, into.Addr().Interface()); err != nil {
			m.Add(string(pointer), MistakeType, "must be "+expected(into.Type()))
		}
	}
}

func (m *Mistakes) object(pointer jsontext.Pointer, v jsontext.Value, into reflect.Value) {
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	_, _ = dec.ReadToken() // the grammar was checked before
	for dec.PeekKind() == '"' {
		name, _ := dec.ReadToken()
		key := name.String()
		member, _ := dec.ReadValue()
		field, ok := fieldByName(into, key)
		if !ok {
			m.Add(string(pointer.AppendToken(key)), MistakeUnknown, "there is no such member")
			continue
		}
		m.value(pointer.AppendToken(key), member, field)
	}
}

func (m *Mistakes) array(pointer jsontext.Pointer, v jsontext.Value, into reflect.Value) {
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	_, _ = dec.ReadToken()
	into.Set(reflect.MakeSlice(into.Type(), 0, 0))
	for i := 0; ; i++ {
		member, err := dec.ReadValue()
		if err != nil { // the end of the array
			return
		}
		element := reflect.New(into.Type().Elem()).Elem()
		m.value(pointer.AppendToken(strconv.Itoa(i)), member, element)
		into.Set(reflect.Append(into, element))
	}
}

func fieldByName(of reflect.Value, name string) (reflect.Value, bool) {
	for i := range of.NumField() {
		tag, _, _ := strings.Cut(of.Type().Field(i).Tag.Get("json"), ",")
		if tag == name {
			return of.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func expected(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "an integer, written without fraction and exponent"
	case reflect.Slice:
		return "an array"
	case reflect.Struct:
		return "an object"
	default:
		return "a number"
	}
}

func syntaxProblem(pointer, detail string) *Problem {
	p := New(MalformedJSON, detail)
	p.Errors = []Mistake{{Pointer: pointer, Code: MistakeSyntax, Detail: detail}}
	return p
}

func describe(err *jsontext.SyntacticError) string {
	what := "not valid JSON"
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		what = "a member is there twice"
	case err.Err != nil:
		what = strings.TrimPrefix(err.Err.Error(), "jsontext: ")
		what, _, _ = strings.Cut(what, " `") // what it quotes may be personal
	}
	return fmt.Sprintf("%s at byte %d", what, err.ByteOffset)
}

// tooDeep gives the offset of the bracket that nests body too deep, or -1. In what is not JSON it may be wrong,
// which does no harm: that is refused either way.
func tooDeep(body []byte) int {
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return i
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return -1
}
