// Answers what kubectl asks of a node: exec, cp and port-forward into processes that the tests have
// started in the place of containers. `--folder` holds a file NAMESPACE_POD_CONTAINER.pid for each.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const patience = 30 * time.Second

type node struct{ folder, address string }

// ExecInContainer runs a command beside the container's own: its root, user and environment.
func (it node) ExecInContainer(ctx context.Context, pod string, _ string, container string, command []string, in io.Reader, out, err io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	read, failure := os.ReadFile(filepath.Join(it.folder, pod+"_"+container+".pid"))
	if failure != nil {
		return fmt.Errorf("container %s of %s does not run", container, pod)
	}
	pid := strings.TrimSpace(string(read))
	environment, failure := os.ReadFile("/proc/" + pid + "/environ")
	if failure != nil {
		return fmt.Errorf("container %s of %s has ended", container, pod)
	}
	status, failure := os.Stat("/proc/" + pid)
	if failure != nil {
		return failure
	}
	own := status.Sys().(*syscall.Stat_t)
	enter := []string{"--target", pid, "--mount", "--root", "--wd",
		"--setuid", fmt.Sprint(own.Uid), "--setgid", fmt.Sprint(own.Gid), "--"}
	child := exec.CommandContext(ctx, "nsenter", append(enter, command...)...)
	for _, pair := range bytes.Split(environment, []byte{0}) {
		if len(pair) > 0 {
			child.Env = append(child.Env, string(pair))
		}
	}
	child.Stdin, child.Stdout, child.Stderr = in, out, err
	failure = child.Run()
	var exited *exec.ExitError
	if errors.As(failure, &exited) {
		return utilexec.CodeExitError{Err: failure, Code: exited.ExitCode()}
	}
	return failure
}

// PortForward connects to a port of the pod.
func (it node) PortForward(ctx context.Context, _ string, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	var dialer net.Dialer
	server, failure := dialer.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", it.address, port))
	if failure != nil {
		return failure
	}
	defer server.Close()
	done := make(chan struct{}, 2)
	copying := func(to io.Writer, from io.Reader) {
		_, _ = io.Copy(to, from)
		done <- struct{}{}
	}
	go copying(server, stream)
	go copying(stream, server)
	<-done
	return nil
}

func main() {
	var it node
	flag.StringVar(&it.folder, "folder", "", "Where the files of process ids are.")
	flag.StringVar(&it.address, "address", "", "Address of the pods.")
	listen := flag.String("listen", "", "Address and port to listen on.")
	certificate := flag.String("certificate", "", "File with the certificate to serve with.")
	key := flag.String("key", "", "File with its key.")
	flag.Parse()
	http.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		options, failure := remotecommand.NewOptions(r)
		if failure != nil {
			http.Error(w, failure.Error(), http.StatusBadRequest)
			return
		}
		remotecommand.ServeExec(w, r, it, r.PathValue("namespace")+"_"+r.PathValue("pod"), "", r.PathValue("container"), r.Form["command"], options, 0, patience, remotecommand.SupportedStreamingProtocols)
	})
	http.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		options, failure := portforward.NewV4Options(r)
		if failure != nil {
			http.Error(w, failure.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, r, it, r.PathValue("pod"), "", options, 0, patience, portforward.SupportedProtocols)
	})
	log.Fatal(http.ListenAndServeTLS(*listen, *certificate, *key, nil))
}
