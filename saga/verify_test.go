package saga_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/saga"
)

func TestVerify_NamesEveryMistake(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(d *saga.Definition)
		want  string
	}{
		"no name":           {func(d *saga.Definition) { d.Name = "" }, "the name must be"},
		"no version":        {func(d *saga.Definition) { d.Version = 0 }, "version must be at least 1"},
		"bad reply topic":   {func(d *saga.Definition) { d.Topic = "Order Replies" }, "topic of replies"},
		"bad step replies":  {func(d *saga.Definition) { d.Groups[1][0].Replies = "a.b" }, `step "book": the topic of replies`},
		"no steps":          {func(d *saga.Definition) { d.Groups = nil }, "there are no steps"},
		"empty group":       {func(d *saga.Definition) { d.Groups[1] = nil }, "group 2 is empty"},
		"no step name":      {func(d *saga.Definition) { d.Groups[1][0].Name = "" }, "the name must be"},
		"bad step name":     {func(d *saga.Definition) { d.Groups[1][0].Name = "a b" }, `step "a b": the name`},
		"duplicate name":    {func(d *saga.Definition) { d.Groups[3][0].Name = "book" }, `step "book": there are two`},
		"bad topic":         {func(d *saga.Definition) { d.Groups[1][0].Topic = "a.b" }, `step "book": the topic`},
		"long topic":        {func(d *saga.Definition) { d.Groups[1][0].Topic = strings.Repeat("a", 65) }, "the topic must"},
		"no command":        {func(d *saga.Definition) { d.Groups[1][0].Command = "" }, `step "book": there is no command`},
		"two pivots":        {func(d *saga.Definition) { d.Groups[1][0] = d.Groups[2][0] }, "2 steps are pivots"},
		"pivot in a group":  {func(d *saga.Definition) { d.Groups[0][0].Pivot = true }, "alone in its group"},
		"pivot compensated": {func(d *saga.Definition) { d.Groups[2][0].Compensation = undo() }, "a pivot is never"},
		"pivot a check":     {func(d *saga.Definition) { d.Groups[2][0].NoEffect = true }, "is no pivot"},
		"rejects after":     {func(d *saga.Definition) { d.Groups[3][0].Rejects = true }, "cannot be rejected"},
		"compensable after": {func(d *saga.Definition) { d.Groups[3][0].Compensation = undo() }, "after the pivot is never"},
		"no compensation":   {func(d *saga.Definition) { d.Groups[0][0].Compensation = nil }, "has no compensation"},
		"no effect, undone": {func(d *saga.Definition) { d.Groups[0][0].NoEffect = true }, "nothing to compensate"},
		"empty undo":        {func(d *saga.Definition) { d.Groups[0][0].Compensation.Command = "" }, "compensation has no command"},
		"undo is do": {func(d *saga.Definition) {
			d.Groups[0][0].Compensation.Command = "inventory.reserve"
		}, "the same command"},
		"endless asking": {func(d *saga.Definition) { d.Groups[3][0].Ask.Attempts = 0 }, "attempts must be bounded"},
		"endless undoing": {func(d *saga.Definition) {
			d.Groups[0][0].Compensation.Ask.Attempts = -1
		}, `step "reserve", undoing: attempts`},
		"no timeout":  {func(d *saga.Definition) { d.Groups[0][0].Ask.Timeout = 0 }, "timeout must be positive"},
		"no cap":      {func(d *saga.Definition) { d.Groups[0][0].Ask.Max = 0 }, "is below the first"},
		"no deadline": {func(d *saga.Definition) { d.Deadline = 0 }, "deadline must be positive"},
		"too slow":    {func(d *saga.Definition) { d.Deadline = 2*time.Second - 1 }, "add up to 2s"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := order()
			tt.spoil(d)
			if err := d.Verify(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func undo() *saga.Compensation {
	return &saga.Compensation{
		Command: "x.undo", Ask: saga.Retry{Timeout: time.Second, Max: time.Second, Attempts: 1},
	}
}

func TestVerify_AcceptsWhatIsSound(t *testing.T) {
	t.Parallel()
	tests := map[string]func(d *saga.Definition){
		"with a pivot":    func(*saga.Definition) {},
		"without a pivot": func(d *saga.Definition) { d.Groups = d.Groups[:2] },
		"pivot first":     func(d *saga.Definition) { d.Groups = d.Groups[2:] },
		"pivot last":      func(d *saga.Definition) { d.Groups = d.Groups[:3] },
		"a check": func(d *saga.Definition) {
			d.Groups[0][0].NoEffect, d.Groups[0][0].Compensation = true, nil
		},
		"just in time": func(d *saga.Definition) { d.Deadline = 2 * time.Second },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := order()
			change(d)
			if err := d.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestVerify_ReportsAllAtOnce(t *testing.T) {
	t.Parallel()
	d := order()
	d.Name, d.Deadline, d.Groups[3][0].Rejects = "", 0, true
	err := d.Verify()
	if err == nil || len(strings.Split(err.Error(), "\n")) != 3 {
		t.Errorf("error %v, want three lines", err)
	}
}
