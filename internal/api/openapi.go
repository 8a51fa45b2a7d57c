package api

import (
	"cmp"
	"context"
	"encoding/json"
	"mvm/internal/api/socket"
	"mvm/internal/api/wire"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"mvm"
)

const apiAbout = `What the agent of a host can be asked, by mvm and by any HTTP client.

On the unix socket of the host the kernel says who asks; over the network, with mutual
TLS 1.3, the client's certificate does: an operator may ask everything, a client of a
tenant what is about its tenant (x-mvm-access: tenants), and only operators the rest.

Requests are strict: an unknown field or parameter is refused. Answers may get more
fields. What takes time answers with lines of JSON (application/x-ndjson): any number
with "progress" or "item", and at the end one with "result" or "error". A stream without
that last line was cut off. Addresses in paths have their separators escaped
(acme%2Fworkers%2Fi-a3f7b2c1); an instance's id alone is an address.

An error's "kind" says what can be done about it, and each has a status of its own,
except that 429 also stands, with Retry-After, for a client that asks too much at once.`

const aboutExec = "a WebSocket with the subprotocol " + socket.Protocol + ", which any WebSocket client can use, in a browser too. The client's first message is text: " +
	"what to run, as the first of the schemas below. Its further ones are binary, of one byte type and at most 32 KiB: 0 stdin, 1 end of stdin, 2 rows and columns (2 bytes each, big-endian). " +
	"From the agent come 3 stdout, 4 stderr and 5, a message of stdin was consumed (at most 16 may wait), " +
	"and at the end a text: how it ended, as the second schema. HTTP/1.1 only."

// OpenAPI returns the schema of the API as an OpenAPI 3.0 document in JSON, made of
// the routes and of the types that they use. version is the agent's.
func OpenAPI(version string) ([]byte, error) {
	s := &schemas{defs: object{}}
	paths := object{}
	for _, r := range (&Server{}).routes().routes {
		item, ok := paths[r.path].(object)
		if !ok {
			item = object{}
			paths[r.path] = item
		}
		item[strings.ToLower(r.method)] = s.operation(r)
	}
	s.in = false
	s.ref(reflect.TypeFor[errorBody]())
	b, err := json.MarshalIndent(object{
		"openapi":    "3.0.3",
		"info":       object{"title": "mvm agent", "version": cmp.Or(version, "devel"), "description": apiAbout},
		"servers":    servers(),
		"security":   []object{}, // OpenAPI 3.0 has no word for mutual TLS: see apiAbout
		"paths":      paths,
		"components": object{"schemas": s.defs, "responses": errorResponses()},
	}, "", "  ")
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "encode schema: %w", err)
	}
	return append(b, '\n'), nil
}

// servers are where the API is. A client of the unix socket names any host.
func servers() []object {
	return []object{
		{"url": "http://agent", "description": "the agent of this host, on its unix socket"},
		{"url": "https://{node}:{port}", "description": "the agent of another host, with mutual TLS 1.3",
			"variables": object{"node": object{"default": "localhost"}, "port": object{"default": "7443"}}},
	}
}

// schema answers with the API's own description.
func (s *Server) schema(context.Context, params, none) (json.RawMessage, error) {
	return OpenAPI(s.version.Version)
}

// operation describes a route.
func (s *schemas) operation(r route) object {
	op := object{"operationId": operationID(r), "summary": r.about, "x-mvm-access": string(r.access), "parameters": parameters(r)}
	s.in = true
	if r.shape != asExec && r.in != reflect.TypeFor[none]() {
		op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": s.ref(r.in)}}}
	}
	s.in = false
	answers := object{"default": object{"$ref": "#/components/responses/Error"}}
	for _, status := range kindStatus() {
		answers[strconv.Itoa(status)] = object{"$ref": "#/components/responses/Error" + strconv.Itoa(status)}
	}
	code, answer := s.answer(r)
	answers[code] = answer
	if r.shape == asItems {
		answers["101"] = object{"description": "the same lines as texts of a WebSocket with the subprotocol " + socket.Lines + ", where the request asks for one (HTTP/1.1 only)"}
	}
	op["responses"] = answers
	return op
}

// answer describes what a route answers when it does not refuse.
func (s *schemas) answer(r route) (code string, o object) {
	content := func(kind string, schema object) object { return object{kind: object{"schema": schema}} }
	last := object{"error": object{"$ref": "#/components/schemas/ErrorBody"}}
	switch r.shape {
	case asResult:
		return "200", object{"description": "lines: progress, and at the end the result or an error",
			"content": content("application/x-ndjson", lineOf(last, "progress", s.ref(reflect.TypeFor[wire.Progress]()), "result", s.ref(r.out)))}
	case asItems:
		return "200", object{"description": "lines: items, and at the end an empty result or an error",
			"content": content("application/x-ndjson", lineOf(last, "item", s.ref(r.out), "result", object{"type": "object"}))}
	case asExec:
		s.in = true
		first := s.ref(r.in)
		s.in = false
		return "101", object{"description": aboutExec, "content": content("application/json", object{"oneOf": []object{first, s.ref(r.out)}})}
	}
	return "200", object{"description": r.about, "content": content("application/json", s.ref(r.out))}
}

// lineOf is one line of a stream, which has exactly one of the fields.
func lineOf(props object, pairs ...any) object {
	for n := 0; n < len(pairs); n += 2 {
		props[pairs[n].(string)] = pairs[n+1]
	}
	return object{"type": "object", "properties": props, "additionalProperties": false, "minProperties": 1, "maxProperties": 1}
}

// parameters describes those of the path and of the query.
func parameters(r route) []object {
	all := []object{}
	for part := range strings.SplitSeq(r.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			all = append(all, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	for _, name := range r.query {
		all = append(all, object{"name": name, "in": "query", "schema": parameter(name), "allowEmptyValue": true})
	}
	if r.shape == asExec {
		all = append(all, object{"name": "Upgrade", "in": "header", "required": true, "schema": object{"type": "string", "enum": []string{"websocket"}}},
			object{"name": "Sec-WebSocket-Protocol", "in": "header", "required": true, "schema": object{"type": "string", "enum": []string{socket.Protocol}}})
	}
	return all
}

// parameter is the type of a parameter of the query; most are text.
func parameter(name string) object {
	switch name {
	case "tail", "after":
		return object{"type": "integer", "minimum": 0}
	case "follow", "console", "previous":
		return object{"type": "boolean"}
	}
	return object{"type": "string"}
}

func operationID(r route) string {
	path := strings.NewReplacer("/v1/", "", "{", "", "}", "", "/", "_", ".", "_").Replace(r.path)
	return strings.ToLower(r.method) + "_" + path
}

// errorResponses describes an answer for every kind of error.
func errorResponses() object {
	body := object{"application/json": object{"schema": object{"$ref": "#/components/schemas/ErrorBody"}}}
	all := object{"Error": object{"description": "an error", "content": body}}
	for kind, status := range kindStatus() {
		r := object{"description": "an error of kind " + string(kind), "content": body}
		if status == http.StatusTooManyRequests {
			r["description"] = "an error of kind " + string(kind) + ", or of kind unavailable for a client that asks too much at once"
			r["headers"] = object{"Retry-After": object{"description": "seconds, with kind unavailable", "schema": object{"type": "integer"}}}
		}
		all["Error"+strconv.Itoa(status)] = r
	}
	return all
}
