package oauth

import (
	"strings"
	"unicode"
)

// skeletons are what is left of a name when case, spaces and punctuation are taken
// out: of its letters as they are, and as they look. Names that begin with one skeleton
// look alike in a hurry (attack B6). It takes both, because the great and the small form
// of a letter may look like two others.
func skeletons(name string) [2]string {
	var plain, drawn strings.Builder
	for _, r := range name {
		switch {
		case r == '|' || r == '\u2223': // a bar is drawn like l, and says nothing
			drawn.WriteRune('l')
			continue
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			continue
		case unicode.IsDigit(r):
			r = '0' + digit(r)
		}
		plain.WriteRune(unicode.ToLower(r))
		if r >= 0xab70 && r <= 0xabbf {
			r = unicode.ToUpper(r) // Cherokee draws its small letters like the great ones
		}
		if like, ok := lookAlikes[r]; ok {
			r = like
		}
		switch r = unicode.ToLower(r); r {
		case 'i', '1': // I and l
			r = 'l'
		case '0':
			r = 'o'
		}
		drawn.WriteRune(r)
	}
	return [2]string{plain.String(), drawn.String()}
}

// digit is the value of a decimal digit of any script: they stand in tens, 0 first.
func digit(r rune) (value rune) {
	for value < 9 && unicode.IsDigit(r-value-1) {
		value++
	}
	return value
}

// beginsLike reports whether a name could be taken for one that begins with another.
func beginsLike(name, other string) bool {
	these, those := skeletons(name), skeletons(other)
	return those[0] != "" && strings.HasPrefix(these[0], those[0]) || those[1] != "" && strings.HasPrefix(these[1], those[1])
}

// lookAlikes maps letters of other scripts, and other letters of the Latin one, to the
// plain letters that most typefaces draw like them: of the confusables of UTS 39,
// those with which a whole name can be written in one script.
var lookAlikes = func() map[rune]rune {
	all := map[rune]rune{}
	for _, pair := range [...][2]string{
		{"АВЕЅІЈКМНОРСТУҮХԚԜӀГԌ", "ABESIJKMHOPCTYYXQWlrG"}, // Cyrillic
		{"авеѕіјкмнорстуүхԁһԛԝӏѵгԍ", "abesijkmhopctyyxdhqwlvrg"},
		{"ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹͿ", "ABEZHIKMNOPTYXCJ"}, // Greek
		{"αγικνορστυχϲϳ", "ayikvopotuxcj"},
		{"ՏՕՍԼօսոհցզյքա", "SOULounhgqjpw"},                                               // Armenian
		{"ᎠᎡᎢᎥᎩᎪᎫᎬᎳᎷᎻᎽᏀᏃᏏᏒᏔᏙᏚᏞᏟᏢᏦᏧᏴᎯᏎ", "DRTiYAJEWMHYGZbRWVSLCPKdBb4"},                   // Cherokee
		{"ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ", "BPDTGKJCZFMNLSRVHWXYAEIOU"},                       // Lisu
		{"ɑᴀʙᴄᴅᴇꜰɡɢʜɩıɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢſɾʋⱺǀƖªº", "aabcdefgghiiijklmnoprstuvwyzsruollao"}, // Latin
	} {
		like := []rune(pair[1])
		for i, r := range []rune(pair[0]) {
			all[r] = like[i]
		}
	}
	return all
}()
