// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

// Feeds consoles to syzkaller's report package and prints what it makes of them: one JSON object a file and line.
// Reports after the first are found as syz-symbolize finds them, with ParseAll.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/google/syzkaller/pkg/mgrconfig"
	"github.com/google/syzkaller/pkg/report"
	"github.com/google/syzkaller/sys/targets"
)

type found struct {
	Title      string `json:"title"`
	Type       string `json:"type"`
	Frame      string `json:"frame"`
	Corrupted  bool   `json:"corrupted"`
	Reason     string `json:"reason,omitempty"`
	Suppressed bool   `json:"suppressed"`
	Start      int    `json:"start"`
}

type answer struct {
	File     string  `json:"file"`
	Crash    bool    `json:"crash"`
	Reports  []found `json:"reports"`
	Seconds  float64 `json:"seconds"`
	Problems string  `json:"problem,omitempty"`
}

func reporter(arch string) (*report.Reporter, error) {
	return report.NewReporter(&mgrconfig.Config{Derived: mgrconfig.Derived{
		TargetOS: targets.Linux, TargetArch: arch, SysTarget: targets.Get(targets.Linux, arch),
	}})
}

func read(file string) (result answer, err error) {
	output, err := os.ReadFile(file)
	if err != nil {
		return result, err
	}
	arch := targets.AMD64
	if os.Getenv("CONSOLE_ARCH") == "s390x" {
		arch = targets.S390x
	}
	rep, err := reporter(arch)
	if err != nil {
		return result, err
	}
	result = answer{File: file, Reports: []found{}}
	begun := time.Now()
	defer func() {
		if problem := recover(); problem != nil {
			result.Problems = fmt.Sprint("panic: ", problem)
		}
	}()
	result.Crash = rep.ContainsCrash(output)
	for _, r := range report.ParseAll(rep, output) {
		result.Reports = append(result.Reports, found{r.Title, string(r.Type), r.Frame, r.Corrupted,
			r.CorruptedReason, r.Suppressed, r.StartPos})
	}
	result.Seconds = time.Since(begun).Seconds()
	return result, nil
}

func main() {
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for _, file := range os.Args[1:] {
		result, err := read(file)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := out.Encode(result); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
