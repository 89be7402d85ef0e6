// Command echo prints its arguments, one a line, and waits for SIGTERM. "exit N" makes it end with that code.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	args := os.Args[1:]
	if len(args) == 2 && args[0] == "exit" {
		code, err := strconv.Atoi(args[1])
		if err != nil {
			code = 1
		}
		fmt.Fprintln(os.Stderr, "going down")
		os.Exit(code)
	}
	for _, arg := range args {
		fmt.Println(arg)
	}
	<-terminated
	fmt.Fprintln(os.Stderr, "stopping")
	fmt.Println("bye")
}
