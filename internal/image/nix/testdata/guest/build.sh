# Makes the output: a folder in the format of dir: images.
$busybox mkdir "$out"
$busybox cp "$page" "$out/page"
$busybox cp "$service" "$out/web.json"
echo "$role $profile" > "$out/who"
echo '{
  "from": "builtin:minimal",
  "add": [
    {"name": "page", "path": "/srv/index.html"},
    {"name": "who", "path": "/srv/who"},
    {"name": "web.json", "path": "/etc/mvm/services/web.json"}
  ]
}' > "$out/image.json"
echo "made $name"
